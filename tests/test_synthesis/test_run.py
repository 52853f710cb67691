"""Interruptions, tasks and workers: the same bytes, and nothing that is finished is made again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from store_files import Stopped, files, hidden, make

from synthcap_mm.errors import NotYet
from synthcap_mm.store import Store, StoreError
from synthcap_mm.synthesis import run
from synthcap_mm.synthesis.images import ImageStage
from synthcap_mm.synthesis.run import Worker, run_stages
from synthcap_mm.synthesis.synthesis import Synthesis
from synthcap_mm.synthesis.text import SmallStage

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("plain", "kept", "retrieved")


def settings_of(kind, settings):
    if kind == "retrieved":
        pool = {"type": "TinyPhotos", "num": 40}
        return {**settings, "generator": {"type": "RetrievalGenerator", "pool": pool}, "images_per_caption": 2}
    return {**settings, "keep_images": kind == "kept"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    """Kind → files of a store that was made in one go."""
    from tiny_store import tiny_settings

    made = {}
    for kind in KINDS:
        settings = settings_of(kind, tiny_settings(tmp_path_factory.mktemp(kind) / "store"))
        make(settings)
        made[kind] = files(settings["store"])
        assert not hidden(settings["store"])
    return made


def stop_after(monkeypatch, owner, name, calls):
    """Let ``owner.name`` raise after so many calls."""
    original, done = getattr(owner, name), []

    def stopping(self, *args, **kwargs):
        if len(done) == calls:
            raise Stopped
        done.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, stopping)


# ---- interruptions
@pytest.mark.parametrize("kind", ["plain", "kept"])
@pytest.mark.parametrize("calls, finished", [(0, 0), (3, 0), (4, 1), (7, 1), (9, 2)])
def test_drawing_that_was_interrupted_goes_on_with_its_shard(
    tiny_synthesis, tiny, whole, monkeypatch, kind, calls, finished
):
    settings = settings_of(kind, tiny_synthesis)
    stop_after(monkeypatch, tiny.TinyPainter, "generate", calls)
    with pytest.raises(Stopped):
        make(settings)
    monkeypatch.undo()
    done = files(settings["store"])
    assert sum(n.startswith("image_features") and "arrow" in n for n in done) == finished
    assert done.items() <= whole[kind].items() and not hidden(settings["store"])
    with pytest.raises(StoreError):
        Store.open(settings["store"])
    drawn = tiny.TinyPainter.drawn
    counts = make(settings)
    assert tiny.TinyPainter.drawn - drawn == 40 - 16 * finished
    assert counts["shards_reused"] == 3 + 2 + finished  # texts, held out and tokenizer
    assert files(settings["store"]) == whole[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_at_every_shard_comes_to_its_end(tiny_synthesis, whole, monkeypatch, kind):
    from synthcap_mm.store import Table

    settings, write, runs, written = settings_of(kind, tiny_synthesis), Table.write, 0, []

    def stops(self, shard, rows, **facts):
        there = self.path(shard).exists()
        write(self, shard, rows, **facts)
        if not there:
            written.append(self.path(shard))
            raise Stopped

    monkeypatch.setattr(Table, "write", stops)
    while True:
        runs += 1
        try:
            make(settings)
            break
        except Stopped:
            assert runs < 60
    assert files(settings["store"]) == whole[kind] and not hidden(settings["store"])
    assert runs > 12 and len(written) == len({*written})


def test_an_error_of_the_tagger_leaves_no_half_shard(tiny_synthesis, tiny, whole, monkeypatch):
    stop_after(monkeypatch, tiny.TinyTagger, "detect", 6)
    with pytest.raises(Stopped):
        make(tiny_synthesis, keep_images=True)
    done = files(tiny_synthesis["store"])
    assert done.items() <= whole["kept"].items() and not hidden(tiny_synthesis["store"])
    assert sum("tar" in name for name in done) == 1


# ---- tasks
def run_task(settings, index, count=3):
    try:
        make(settings, task=(index, count))
        return True
    except NotYet:
        return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_in_any_order_some_of_them_killed(tiny_synthesis, tiny, whole, monkeypatch, kind, order):
    settings = settings_of(kind, tiny_synthesis)
    drawn = tiny.TinyPainter.drawn
    stop_after(monkeypatch, tiny.TinyEncoder, "encode_image", 2)
    for index in order[:2]:
        with pytest.raises(Stopped):
            run_task(settings, index)
    monkeypatch.undo()
    lost = tiny.TinyPainter.drawn - drawn
    finished = [[run_task(settings, index) for index in order] for _ in range(4)]
    assert all(finished[-1]) and files(settings["store"]) == whole[kind] and not hidden(settings["store"])
    assert tiny.TinyPainter.drawn - drawn == lost + 40
    Store.open(settings["store"])


def test_a_task_makes_its_own_share_and_says_what_is_missing(tiny_synthesis):
    with pytest.raises(NotYet, match="refine"):
        make(tiny_synthesis, task=(1, 3))
    shards = {n for n in files(tiny_synthesis["store"]) if n.endswith(".arrow")}
    assert {n.split("/")[1][:5] for n in shards if not n.startswith("heldout")} == {"00001"}
    assert not any(n.startswith("refined") for n in shards)


def test_the_same_task_twice_at_once(tiny_synthesis, whole):
    """A task that was started again while the first still runs: either's bytes are right."""
    errors = in_threads(lambda i: make(tiny_synthesis, task=(0, 1)), 2)
    assert errors == [None, None] and files(tiny_synthesis["store"]) == whole["plain"]


# ---- workers
def in_threads(work, count):
    """The error of each thread, or ``None``."""
    errors = [None] * count

    def run_one(i):
        try:
            work(i)
        except BaseException as error:
            errors[i] = error

    threads = [threading.Thread(target=run_one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_share_the_work(tiny_synthesis, tiny, whole, monkeypatch, kind):
    monkeypatch.setattr(run, "_LOOK", 0.02)
    settings, drawn = settings_of(kind, tiny_synthesis), tiny.TinyPainter.drawn

    def work(i):
        Synthesis(**settings).run(worker=Worker(i, 2))

    assert in_threads(work, 2) == [None, None]
    assert files(settings["store"]) == whole[kind] and not hidden(settings["store"])
    # Two that look at the same moment may both take a shard of 8; without sharing they would draw 80.
    assert 40 <= tiny.TinyPainter.drawn - drawn < 80


def test_a_worker_waits_for_the_last_shard_of_another(tiny_synthesis, tiny, whole, monkeypatch):
    """Also while the other only encodes it, with nothing left to draw."""
    monkeypatch.setattr(run, "_LOOK", 0.02)
    make(tiny_synthesis, only="text")
    waits, encode, drawn = threading.Event(), tiny.TinyEncoder.encode_image, tiny.TinyPainter.drawn
    last = threading.Event()

    def slow(self, pixels):
        if len(pixels) == 3:  # the last batch of all
            last.set()
            assert waits.wait(20)
        return encode(self, pixels)

    monkeypatch.setattr(tiny.TinyEncoder, "encode_image", slow)
    first = threading.Thread(target=make, args=(tiny_synthesis,))
    first.start()
    assert last.wait(20)
    second = threading.Thread(target=make, args=(tiny_synthesis,))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    waits.set()
    for thread in (first, second):
        thread.join(20)
    assert tiny.TinyPainter.drawn - drawn == 40 and files(tiny_synthesis["store"]) == whole["plain"]


def test_the_mark_of_a_dead_or_silent_worker_counts_for_nothing(tiny_synthesis, whole, monkeypatch):
    import socket

    synthesis = Synthesis(**tiny_synthesis)
    stage = next(s for s in synthesis.stages() if isinstance(s, ImageStage))
    table, dead = stage.tables[0], subprocess.Popen(["true"])
    dead.wait()
    table.folder.mkdir(parents=True)
    mine, other = (table.folder / f".{table.names[i]}~{owner}~mark" for i, owner in
                   ((0, f"{dead.pid}~{socket.gethostname()}"), (1, "1~elsewhere")))  # fmt: skip
    mine.touch()
    other.touch()
    worker = Worker()
    assert worker._unmarked(stage, [0, 1, 2]) == [0, 2]
    os.utime(other, (time.time() - 3600,) * 2)
    synthesis.run(worker=worker)
    assert files(tiny_synthesis["store"]) == whole["plain"]


def test_which_worker_a_process_is(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    rank, task = Worker.of_this_process(), Worker.of_this_process((2, 4))
    assert (rank.index, rank.count, rank.own_share_only) == (1, 3, False)
    # The processes of a task share its share.
    assert (task.index, task.count, task.own_share_only) == (7, 12, True)
    assert task.share(range(24)) == [7, 19] and rank.share(range(3)) == [0, 1, 2]


def test_marks_go_with_their_shard(tiny_synthesis, monkeypatch):
    """However many shards a stage has, few files stand beside them."""
    seen, update = [], run.Progress.update
    monkeypatch.setattr(run.Progress, "update", lambda self, n: (seen.append(len(hidden(tiny_synthesis["store"]))), update(self, n))[1])  # fmt: skip
    make(tiny_synthesis, generator=None, shard_size=2)
    assert len(seen) > 20 and max(seen) <= 2


def test_a_stage_waits_for_what_it_needs(tmp_path):
    from synthcap_mm.store import Table
    from synthcap_mm.store.schema import heldout_rows

    tables = [Table(tmp_path, name, {}, ["a"]) for name in ("one", "two")]
    stages = [SmallStage(t.name, t, lambda: heldout_rows([True])) for t in tables]
    stages[0].needs = [tables[1]]
    with pytest.raises(NotYet, match="one needs 1 more"):
        run_stages(stages, Worker())
    assert tables[0].missing() and not tables[1].missing()  # what could be made was made
    run_stages(stages, Worker())
    assert not tables[0].missing()


# ---- processes
WORK = """
import json, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
import components
from mmengine.registry import init_default_scope
init_default_scope("synthcap_mm")
from synthcap_mm.synthesis.synthesis import Synthesis
generate = components.TinyPainter.generate
def slowly(self, captions, seeds):
    time.sleep(float(sys.argv[2]))
    return generate(self, captions, seeds)
components.TinyPainter.generate = slowly
Synthesis(**json.loads(sys.argv[1])).run()
"""


def start(settings, pause, **env):
    import json

    code = WORK.format(root=str(ROOT), tests=str(ROOT / "tests"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(settings), str(pause)], env=env)


@pytest.mark.slow
def test_processes_one_of_them_killed(tiny_synthesis, whole):
    """Two ranks of torchrun, as their environment says; the first is killed while it draws, the second goes on."""
    ranks = [start(tiny_synthesis, 0.3, RANK=str(i), WORLD_SIZE="2") for i in range(2)]
    deadline = time.monotonic() + 120
    while not list(Path(tiny_synthesis["store"]).rglob("images-*/.0*~mark")):
        time.sleep(0.05)
        assert time.monotonic() < deadline
    ranks[0].send_signal(signal.SIGKILL)
    assert ranks[0].wait() == -signal.SIGKILL and ranks[1].wait(120) == 0
    assert files(tiny_synthesis["store"]) == whole["plain"]
    Store.open(tiny_synthesis["store"])
