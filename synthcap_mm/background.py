"""A thread that takes work off the caller's hands."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

#: Seconds that the current item has after a Ctrl-C, so that no file is left half written.
_MOMENT = 0.5

_END = object()
T, R = TypeVar("T"), TypeVar("R")


class Background:
    """Calls a function on one item after another in a thread of its own, in the order they were put.

    A context manager. Leaving it waits for all items, also when an exception leads
    out: a shard that is drawn is not lost to a fault in the next one. Only a KeyboardInterrupt
    drops the items that wait, and waits for the current one for half a second at most. An exception
    in the thread is raised from the next :meth:`put`, or on leaving; later items
    are passed over then. On a GPU the thread has a
    stream of its own, so that its kernels run beside those of the caller.

    Args:
        work: called with each item.
        depth: items that may wait; then :meth:`put` waits too. Default 2: one
            being worked on and one ready, so that memory does not grow.
        device: where ``work`` computes. Default: the CPU.
    """

    def __init__(self, work: Callable[[Any], None], depth: int = 2, device: torch.device | None = None) -> None:
        self._work = work
        self._items: queue.Queue[Any] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stream = None
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)  # weights that are on their way must have arrived
            self._stream = torch.cuda.Stream(device)
        self._thread = threading.Thread(target=self._run, name="synthcap background", daemon=True)

    def _run(self) -> None:
        stream = torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()
        with stream, torch.no_grad():  # both are a thread's own
            while (item := self._items.get()) is not _END:
                if self._error is None:
                    try:
                        self._work(item)
                    except BaseException as error:
                        self._error = error
                del item  # pictures of a batch are not held while the next is waited for

    def put(self, item: Any) -> None:
        """Hand over an item; waits while the queue is full.

        Raises:
            BaseException: what ``work`` raised before.
        """
        self._raise()
        self._items.put(item)
        self._raise()

    def drop(self) -> None:
        """Forget the items that wait."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        if interrupted:
            self.drop()
        self._items.put(_END)
        self._thread.join(_MOMENT if interrupted else None)
        if kind is None:
            self._raise()


@contextlib.contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; on leaving, work that has not begun is cancelled, and running work is not waited for.

    Args:
        count: of the threads.
        name: of the threads.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def map_ahead(
    work: Callable[[T], R], items: Iterable[T], depth: int = 2, device: torch.device | None = None
) -> Iterator[R]:
    """``work`` of each item in a :class:`Background`, in their order, some items ahead of whoever takes the results.

    At most ``depth + 2`` items are under way, so that memory does not grow with their number.
    Several of these, one fed by another, make a pipeline whose stages run beside each other.

    Args:
        work: called with each item. On a GPU its results are the thread's own stream's: it returns
            what is on the CPU, or waits for its kernels.
        items: may be without an end; taken in the caller's thread.
        depth: see :class:`Background`. Default 2.
        device: see :class:`Background`. Default: the CPU.

    Raises:
        BaseException: what ``work`` raised, where its result would have come.
    """

    def run(pair: tuple[T, Future[R]]) -> None:
        item, future = pair
        try:
            future.set_result(work(item))
        except BaseException as error:
            future.set_exception(error)

    waiting: deque[Future[R]] = deque()
    with Background(run, depth, device) as background:
        try:
            for item in items:
                future: Future[R] = Future()
                background.put((item, future))
                del item
                waiting.append(future)
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:  # nobody takes the other results
            background.drop()
            raise
