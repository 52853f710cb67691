"""How far all ranks are together, and where they wait for each other."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

from mmengine.dist import barrier, get_dist_info
from mmengine.logging import print_log

from synthcap_mm.stores.errors import StoreError

#: Seconds between two looks at the others, and between two lines in a log without a terminal.
_LOOK, _LINE = 0.2, 60.0
_names = itertools.count()
#: Where a rank tells that the job it is at failed; the innermost job last.
_jobs: list[Meeting] = []


def duration(seconds: float) -> str:
    """Seconds as people say them: ``'3 h 12 min'``, ``'4 min 10 s'``, ``'12 s'``."""
    seconds = max(0, round(seconds))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


class Meeting:
    """A count over all ranks, and a meeting point without a time limit.

    A barrier of NCCL gives up after ten minutes; a rank may well have a shard
    more to draw than another. So ranks count in the store of the process group,
    which needs no answer from the others. All ranks make their meetings in the
    same order.
    """

    def __init__(self) -> None:
        self.rank, self.world = get_dist_info()
        self._prefix = f"synthcap_mm/{next(_names)}"
        self._own = 0
        self._store: Any = None
        if self.world > 1:
            # The only way to the group's key-value store, which every launcher and backend has.
            from torch.distributed.distributed_c10d import _get_default_store

            self._store = _get_default_store()

    def add(self, count: int) -> int:
        """Count; returns the sum of all ranks so far."""
        if self._store is None:
            self._own += count
            return self._own
        return self._store.add(f"{self._prefix}/count", count)

    def wait(self, look: Any = None) -> None:
        """Wait until all ranks are here; ``look()`` is called now and then.

        Raises:
            StoreError: if another rank failed, here or elsewhere in :func:`telling_of_failure`.
        """
        if self._store is None:
            return
        self._store.add(f"{self._prefix}/here", 1)
        while self._store.add(f"{self._prefix}/here", 0) < self.world:
            if any(meeting._has_failed() for meeting in (self, *_jobs)):
                raise StoreError("another rank failed; its own message says why")
            time.sleep(_LOOK)
            if look is not None:
                look()
        barrier()

    def fail(self) -> None:
        """Tell the others not to wait."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # the store's host may be gone already
                self._store.add(f"{self._prefix}/failed", 1)

    def _has_failed(self) -> bool:
        return self._store.add(f"{self._prefix}/failed", 0) > 0


def meet() -> None:
    """Wait for all ranks, however long they take.

    Raises:
        StoreError: see :meth:`Meeting.wait`.
    """
    Meeting().wait()


@contextlib.contextmanager
def telling_of_failure() -> Iterator[None]:
    """A job of all ranks: one that leaves it by an exception is not waited for at any meeting in it.

    Without it a rank that failed between two meetings would never come to the next one, where the others wait without
    a time limit.
    """
    job = Meeting()
    _jobs.append(job)
    try:
        yield
    except BaseException:
        job.fail()
        raise
    finally:
        _jobs.remove(job)


class Progress:
    """A bar on the main rank's terminal over what all ranks do; lines in the log where there is no terminal.

    A context manager; all ranks meet at its end.

    Args:
        title: what is made.
        total: how many things there are in all.
        reused: how many of them were there before.
        unit: what they are called.
    """

    def __init__(self, title: str, total: int, reused: int, unit: str) -> None:
        from tqdm import tqdm

        self._meeting = Meeting()
        main = self._meeting.rank == 0
        self.title, self.total, self.reused, self.made, self.unit = title, total, reused, 0, unit
        ranks = f" ({self._meeting.world} ranks)" if self._meeting.world > 1 else ""
        self._bar = tqdm(
            total=total,
            initial=reused,
            desc=title + ranks,
            unit=f" {unit}",
            disable=None if main else True,
            smoothing=0.1,
        )
        self._speaks = main and self._bar.disable
        self._started = self._said = time.monotonic()
        self._turn = threading.Lock()  # a thread in the background counts too

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                self._meeting.wait(lambda: self.update(0))
                self.update(0)
            else:
                self._meeting.fail()
        finally:
            self._bar.close()
        if kind is None and self._meeting.rank == 0:
            print_log(
                f"{self.title}: {self.made} made, {self.reused} reused, of {self.total}, "
                f"in {duration(time.monotonic() - self._started)}",
                logger="current",
            )

    def update(self, count: int) -> None:
        """Count; shows the sum of all ranks."""
        with self._turn:
            self.made = self._meeting.add(count)
            if not self._bar.disable:
                self._bar.update(self.reused + self.made - self._bar.n)
            now = time.monotonic()
            if self._speaks and now - self._said >= _LINE:
                self._said = now
                rate = self.made / (now - self._started)
                left = duration((self.total - self.reused - self.made) / rate) if self.made else "unknown"
                print_log(
                    f"{self.title}: {self.reused + self.made} of {self.total}, {rate:.2f} {self.unit}/s over "
                    f"{self._meeting.world} rank(s), time left {left}",
                    logger="current",
                )
