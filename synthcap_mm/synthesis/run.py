"""The loop that makes missing shards, and how workers share them.

Any number of workers make a store: processes of `torchrun`, tasks of a Slurm array, a second terminal. They need no
process group and no lock: a shard's name says what is in it, so that two workers that make the same one make the
same bytes, and the first to finish counts. To make that rare, a worker leaves a small mark beside the shard that it
is at; marks are a hint, and nobody depends on them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from synthcap_mm.errors import NotYet
from synthcap_mm.files import names_in, own_file, owner_is_gone
from synthcap_mm.progress import Progress
from synthcap_mm.store import Table

#: Seconds between two looks while other workers are at the last shards.
_LOOK = 0.5
#: Seconds without a sign of life after which a worker on another machine counts as gone.
_SILENT = 600.0


class Stage:
    """Makes tables, shard by shard.

    Attributes:
        name: what it is called.
        unit: what its rows are.
        tables: what it makes; a shard is done when all of them have it.
        needs: tables that must be whole before it begins.
        reads: tables of which a shard needs the shard of its number.
        sizes: rows of each shard.
        small: any worker makes all of it, also one that has a share only.
    """

    name: str
    unit: str = "rows"
    tables: Sequence[Table]
    needs: Sequence[Table] = ()
    reads: Sequence[Table] = ()
    sizes: Sequence[int]
    small: bool = False

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to make."""
        return sorted({shard for table in self.tables for shard in table.missing()})

    def make(self, shards: Iterable[int], progress: Progress) -> None:
        """Make shards as they come, and count their rows.

        Args:
            shards: their numbers; taking the next one says that it is begun.
            progress: to be told of rows that are made.
        """
        raise NotImplementedError


class Worker:
    """One of the workers that make a store.

    Args:
        index: its number.
        count: how many there are; shards whose number leaves the remainder ``index`` are its own share, and come
            first.
        own_share_only: leave the others' shares alone, and wait for nobody (``--task``). Default ``False``.
    """

    def __init__(self, index: int = 0, count: int = 1, own_share_only: bool = False) -> None:
        self.index, self.count, self.own_share_only = index, count, own_share_only
        self._marks: dict[int, Path] = {}
        self.taken = 0

    @classmethod
    def of_this_process(cls, task: tuple[int, int] | None = None) -> Worker:
        """The worker that this process is: a task, a rank of `torchrun`, or a single one.

        Args:
            task: number of the task and how many there are. Default ``None``: no task.
        """
        rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if task is not None:  # a task of several processes shares its share
            return cls(task[0] * ranks + rank, task[1] * ranks, own_share_only=True)
        return cls(rank, ranks)

    def take(self, stage: Stage) -> Iterator[int]:
        """Missing shards of a stage, one by one, until none is missing (or none of the own share)."""
        taken: set[int] = set()
        while True:
            missing = stage.missing()
            self.remove_marks({*self._marks} - {*missing})
            missing = [shard for shard in missing if shard not in taken]
            if not stage.small:
                missing = self.share(missing)
            if not missing:
                return
            free = missing if self.own_share_only else self._unmarked(stage, missing)
            if not free:
                time.sleep(_LOOK)
                continue
            shard = min(free, key=lambda s: (s % self.count != self.index, s))
            taken.add(shard)
            self.taken += 1
            self._mark(stage, shard)
            yield shard

    def share(self, shards: Iterable[int]) -> list[int]:
        """Those of ``shards`` that this worker may make."""
        return [shard for shard in shards if not self.own_share_only or shard % self.count == self.index]

    # ---- marks
    def _mark(self, stage: Stage, shard: int) -> None:
        if self.own_share_only or stage.small:
            return
        table = stage.tables[0]
        mark = own_file(table.path(shard), "mark")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._marks[shard] = mark

    def remove_marks(self, shards: Iterable[int] | None = None) -> None:
        """Say that shards are done, or left (all by default)."""
        for shard in list(self._marks) if shards is None else shards:
            self._marks.pop(shard).unlink(missing_ok=True)

    def touch_marks(self) -> None:
        """Say that this worker is alive."""
        for mark in list(self._marks.values()):  # another thread may be adding one
            with contextlib.suppress(FileNotFoundError):
                os.utime(mark)

    def _unmarked(self, stage: Stage, missing: Sequence[int]) -> list[int]:
        table = stage.tables[0]
        marks = [name for name in names_in(table.folder) if name.endswith("~mark")]
        busy = {name[1:].split("~")[0] for name in marks if not owner_is_gone(table.folder / name, _SILENT)}
        return [shard for shard in missing if table.names[shard] not in busy]


def run_stages(stages: Sequence[Stage], worker: Worker) -> int:
    """Make what is missing of some stages, in their order.

    Args:
        stages: the stages.
        worker: whose work it is.

    Returns:
        Number of shards that this worker made.

    Raises:
        NotYet: if a stage needs what other tasks have not made yet; what could be made was made.
    """
    waiting, before = [], worker.taken
    for stage in stages:
        lacking = {table.name: len(found) for table in stage.needs if (found := table.missing())}
        lacking |= {table.name: len(found) for table in stage.reads if (found := worker.share(table.missing()))}
        if lacking:
            waiting.append(
                f"{stage.name} needs "
                + ", ".join(f"{count} more shard(s) of {name}" for name, count in lacking.items())
            )
        elif stage.missing():
            try:
                with _progress(stage, worker) as progress:
                    stage.make(worker.take(stage), progress)
            finally:  # not before: the last shards are still being written when no more are taken
                worker.remove_marks()
    if waiting:
        raise NotYet("; ".join(waiting) + ". Once they are there, the same command goes on.")
    return worker.taken - before


def _progress(stage: Stage, worker: Worker) -> Progress:
    total = sum(stage.sizes)

    def done() -> int:
        return total - sum(stage.sizes[shard] for shard in stage.missing())

    return Progress(stage.name, total, done(), stage.unit, worker.index == 0, done, worker.touch_marks)
