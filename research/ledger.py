"""Finished runs in a csv file, which several processes may write."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthcap_mm.files import write_atomically

#: Columns before the metrics; ``trained`` and ``commit`` are the code that trained and that tested.
COLUMNS = ("run", "hash", "seed", "trained", "commit", "seconds", "heldout_CIDEr")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> None:
    """Write a csv file, whole or not at all.

    Args:
        path: the file.
        rows: by column; columns that a row lacks are left empty.
        first: the columns that come first.
    """
    text = io.StringIO()
    names = dict.fromkeys([*first, *(k for row in rows for k in row)])
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; waits while one of them holds it."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Ledger:
    """Finished runs in a csv file; each row is there whole or not at all. Several processes may write it.

    Args:
        path: the file; made with its first row.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self.rows = read_rows(self.path)

    def find(self, run: str, digest: str, seed: int) -> dict[str, str] | None:
        """The row of a run, or ``None``."""
        for row in self.rows:
            if (row["run"], row["hash"], row["seed"]) == (run, digest, str(seed)):
                return row
        return None

    def newest_hash(self, run: str) -> str | None:
        """The hash of the row of a run that was written last, or ``None`` where it has none."""
        return next((row["hash"] for row in reversed(self.rows) if row["run"] == run), None)

    def put(self, row: Mapping[str, Any]) -> None:
        """Add a row, or replace that of the same run, hash and seed."""
        new = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in row.items()}
        with self._lock, exclusive(self.path.parent):
            self.rows = read_rows(self.path)  # with those of other processes
            same = self.find(new["run"], new["hash"], int(new["seed"]))
            self.rows = [r for r in self.rows if r is not same] + [new]
            write_rows(self.path, self.rows, COLUMNS)
