"""A file of captions, a line an image: written as they come, and gone on with after any stop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from synthcap_mm.files import write_atomically, write_json


class CaptionFileError(RuntimeError):
    """A file of captions that cannot be gone on with; the message says why."""


class CaptionLines:
    """``captions.jsonl``: an object with ``image`` and ``captions``, or ``image`` and ``error``, a line.

    What was written by other settings is not gone on with: they stand beside the
    file, in ``NAME.settings.json``. When it is opened, a line that a kill cut short is taken
    away, and so are errors: their images are tried again.

    A context manager.

    Args:
        path: the file; its folder is made.
        settings: plain values that decide the captions.

    Attributes:
        done (set[str]): images that have their captions.

    Raises:
        CaptionFileError: if the file was written with other settings, or is not such a file.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self._file: TextIO | None = None
        notes = self.path.with_name(self.path.name + ".settings.json")
        settings = json.loads(json.dumps(settings))
        if self.path.is_file() and self.path.stat().st_size:
            self._compare(notes, settings)
            self._mend()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(notes, settings)

    def _compare(self, notes: Path, settings: dict[str, Any]) -> None:
        try:
            old = json.loads(notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise CaptionFileError(
                f"{self.path} is there, and nothing beside it says how it was made ({notes.name}): delete it, or give "
                "another --out"
            ) from None
        names = sorted({*old, *settings})
        changed = [f"{n}: {old.get(n)!r} → {settings.get(n)!r}" for n in names if old.get(n) != settings.get(n)]
        if changed:
            raise CaptionFileError(
                f"{self.path} was written with other settings ({'; '.join(changed)}): delete it, or give another --out"
            )

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with open(self.path, "rb") as file:
            yield from enumerate(file, 1)

    def _mend(self) -> None:
        kept, dropped = [], False
        for number, line in self._lines():
            whole = line.endswith(b"\n")
            try:
                row = json.loads(line)
                key = row["image"]
            except (ValueError, KeyError, TypeError) as error:
                if whole:
                    raise CaptionFileError(
                        f"{self.path}, line {number} is no line of captions ({error!r}): mend or delete the file"
                    ) from error
                row = {"error": "cut short"}
            if not whole or "error" in row:
                dropped = True
                continue
            self.done.add(key)
            kept.append(line)
        if dropped:
            with write_atomically(self.path) as file:
                file.writelines(kept)

    def __enter__(self) -> CaptionLines:
        self._file = open(self.path, "a", encoding="utf-8")
        return self

    def write(self, prediction: dict[str, Any]) -> None:
        """Write a line; it is with the operating system when this returns."""
        self._file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
        self._file.flush()

    def __exit__(self, *error: object) -> None:
        self._file.close()
