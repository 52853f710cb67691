"""How far long work is."""

from __future__ import annotations

import time
from collections.abc import Callable

from mmengine.logging import print_log

#: Seconds between two lines in a log without a terminal.
_LINE = 60.0


def duration(seconds: float) -> str:
    """Seconds as people say them: ``'3 h 12 min'``, ``'4 min 10 s'``, ``'12 s'``."""
    seconds = max(0, round(seconds))
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def megabytes(count: float) -> str:
    """Bytes as people say them: ``'3.1 MB'``, ``'1.25 GB'``."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class Progress:
    """A bar on a terminal; lines in the log where there is no terminal. A context manager.

    Args:
        title: what is made.
        total: how many things there are in all.
        reused: how many of them were there before.
        unit: what they are called.
        shown: whether anything is shown. Default ``True``.
        done: how many there are by now, where others make some too. Default ``None``: those that were counted here.
        on_update: called at each count. Default ``None``.
    """

    def __init__(
        self,
        title: str,
        total: int,
        reused: int,
        unit: str,
        shown: bool = True,
        done: Callable[[], int] | None = None,
        on_update: Callable[[], None] | None = None,
    ) -> None:
        from tqdm import tqdm

        self.title, self.total, self.reused, self.made, self.unit = title, total, reused, 0, unit
        self._done, self._on_update = done, on_update
        self._bar = tqdm(
            total=total,
            initial=reused,
            desc=title,
            unit=f" {unit}",
            disable=None if shown else True,
            smoothing=0.1,
        )
        self._shown, self._speaks = shown, shown and self._bar.disable
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._bar.close()
        if kind is None and self._shown:
            print_log(
                f"{self.title}: {self.made} made, {self.reused} reused, of {self.total}, "
                f"in {duration(time.monotonic() - self._started)}",
                logger="current",
            )

    def update(self, count: int) -> None:
        """Count things that were made (below 0: some are made anew)."""
        self.made += count
        if self._on_update is not None:
            self._on_update()
        if not self._bar.disable:
            self._bar.update(count)
        now = time.monotonic()
        if self._speaks and now - self._said >= _LINE:
            self._said = now
            made = self.made if self._done is None else max(self.made, self._done() - self.reused)
            rate = made / (now - self._started)
            left = duration((self.total - self.reused - made) / rate) if made else "unknown"
            print_log(
                f"{self.title}: {self.reused + made} of {self.total}, {rate:.2f} {self.unit}/s, time left {left}",
                logger="current",
            )
