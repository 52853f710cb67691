"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

import glob
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from synthcap_mm.files import write_atomically


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written under another name and renamed once they are on disk.

    For ``CheckpointHook(backend_args=dict(backend='atomic'))``: a run killed
    while it writes a checkpoint leaves no half of one under its name. What it
    leaves under the other name goes when the file is written again, as the resumed run does.
    Not for files that several processes write at once.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes."""
        path = Path(filepath)
        for left in path.parent.glob(f".{glob.escape(path.name)}~*.tmp"):
            left.unlink(missing_ok=True)
        with write_atomically(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)


register_backend("atomic", AtomicLocalBackend, force=True)
