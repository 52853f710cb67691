"""Checkpoints that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from synthcap_mm.files import write_atomically


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written under another name and renamed once they are on disk.

    For ``CheckpointHook(backend_args=dict(backend='atomic'))``: a run killed
    while it writes a checkpoint leaves no half of one under its name. What it leaves under the other name goes
    with the next checkpoint, on another machine after a day.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes."""
        with write_atomically(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)


register_backend("atomic", AtomicLocalBackend, force=True)
