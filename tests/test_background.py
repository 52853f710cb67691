"""Work in another thread."""

import threading
import time

import pytest
import torch

from synthcap_mm.background import Background, map_ahead, threads


def test_items_come_in_their_order_and_all_of_them():
    done = []
    with Background(done.append) as background:
        for i in range(100):
            background.put(i)
    assert done == list(range(100))


def test_the_caller_does_not_wait_until_the_queue_is_full():
    gate, began, done = threading.Event(), threading.Event(), []

    def work(item):
        began.set()
        assert gate.wait(10)
        done.append(item)

    with Background(work, depth=2) as background:
        background.put(0)
        assert began.wait(10)
        background.put(1)
        background.put(2)  # one at work, two waiting: none of it waited for
        assert done == []
        more = threading.Thread(target=background.put, args=(3,))
        more.start()
        more.join(0.2)
        assert more.is_alive()  # memory does not grow
        gate.set()
        more.join(10)
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("items", [100, 2])  # also an error on the last one
def test_an_error_in_the_thread_reaches_the_caller_and_stops_the_work(items):
    done = []

    def work(item):
        if item == 1:
            raise ValueError("bad item")
        done.append(item)

    with pytest.raises(ValueError, match="bad item"), Background(work) as background:
        for i in range(items):
            background.put(i)
    assert done == [0]


def test_what_was_put_before_the_callers_error_is_finished():
    done = []
    with pytest.raises(ValueError), Background(done.append) as background:
        background.put(0)
        background.put(1)
        raise ValueError
    assert done == [0, 1]


def test_after_an_interrupt_nothing_slow_is_waited_for():
    gate, begun, done = threading.Event(), threading.Event(), []

    def work(item):
        begun.set()
        assert gate.wait(20)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Background(work) as background:
        for i in range(3):
            background.put(i)
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert done == []
    gate.set()
    background._thread.join(10)
    assert done == [0] and not background._thread.is_alive()


def test_what_an_interrupt_finds_under_way_has_a_moment():
    begun, done = threading.Event(), []

    def work(item):
        begun.set()
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Background(work) as background:
        background.put(0)
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert done == [0]  # a file is not left half written


def test_no_gradients_and_the_callers_number_of_threads():
    found = []
    with Background(lambda _: found.append((torch.is_grad_enabled(), torch.get_num_threads()))) as background:
        background.put(0)
    assert found == [(False, torch.get_num_threads())]


def test_map_ahead_keeps_the_order_and_runs_in_another_thread():
    threads = set()

    def work(item):
        threads.add(threading.get_ident())
        return item * item

    assert list(map_ahead(work, range(50))) == [i * i for i in range(50)]
    assert len(threads) == 1 and threading.get_ident() not in threads
    assert list(map_ahead(work, [])) == []


def test_map_ahead_works_while_the_caller_does_and_holds_few_items():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: i, map_ahead(lambda i: i, items(), depth=2), depth=2)
    assert next(results) == 0
    assert 3 <= len(taken) <= 8  # two stages, each two items ahead
    assert list(results) == list(range(1, 100))


def test_map_ahead_raises_where_the_result_would_have_come():
    def work(item):
        if item == 3:
            raise ValueError("three")
        return item

    results = map_ahead(work, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_a_map_ahead_that_is_left_early_ends_its_thread():
    before = threading.active_count()
    results = map_ahead(lambda i: i, iter(int, 1))  # without an end
    assert [next(results) for _ in range(3)] == [0, 0, 0]
    results.close()
    assert threading.active_count() == before


def test_a_map_ahead_that_is_left_early_does_not_begin_what_waits():
    begun, gate = [], threading.Event()

    def work(item):
        begun.append(item)
        if item:
            gate.wait(20)
        return item

    results = map_ahead(work, range(9), depth=3)
    assert next(results) == 0
    threading.Timer(0.2, gate.set).start()
    results.close()
    assert begun in ([0], [0, 1])


def test_threads_that_are_left_are_not_waited_for():
    gate, begun = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), threads(2, "test") as pool:
        waiting = [pool.submit(lambda i=i: (begun.append(i), gate.wait(20))) for i in range(9)]
        raise KeyboardInterrupt
    assert all(one.cancelled() for one in waiting[2:]) and len(begun) <= 2
    gate.set()
