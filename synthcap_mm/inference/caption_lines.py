"""A file of written captions, a line an image: appended to as they come, and continued after any stop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from synthcap_mm.errors import UserError
from synthcap_mm.files import parse_json, read_json, write_atomically, write_json


class CaptionLines:
    """``captions.jsonl``: an object with ``image`` and ``captions``, or ``image`` and ``error``, a line.

    The settings that the captions were written with stand beside the file, in ``NAME.settings.json``; a file
    of other settings is not continued. When a file is opened again, a line that a kill cut short is
    removed, and so are errors: their images are tried again.

    A context manager.

    Args:
        path: the file; its folder is made.
        settings: plain values that decide the captions.

    Attributes:
        done (set[str]): images that have their captions.

    Raises:
        UserError: if the file was written with other settings, or is not such a file.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self._file: TextIO | None = None
        notes = self.path.with_name(self.path.name + ".settings.json")
        settings = json.loads(json.dumps(settings))
        if self.path.is_file() and self.path.stat().st_size:
            self._compare(notes, settings)
            self._keep_captions()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(notes, settings)

    def _compare(self, notes: Path, settings: dict[str, Any]) -> None:
        try:
            old = read_json(notes)
        except (OSError, UserError):
            raise UserError(
                f"{self.path} exists, and {notes.name}, which records its settings, cannot be read: delete "
                "it, or give another --out"
            ) from None
        names = sorted({*old, *settings})
        changed = [f"{n}: {old.get(n)!r} → {settings.get(n)!r}" for n in names if old.get(n) != settings.get(n)]
        if changed:
            raise UserError(
                f"{self.path} was written with other settings ({'; '.join(changed)}): delete it, or give another --out"
            )

    def _keep_captions(self) -> None:
        """Remove errors and a line that was cut short; remember whose captions are there."""
        with open(self.path, "rb") as file:
            lines = file.readlines()
        kept = []
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                continue
            try:
                row = parse_json(self.path, line, number)
                key = row["image"]
            except (UserError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}, line {number} is no line of captions ({error!r}): delete it") from error
            if "error" not in row:
                self.done.add(key)
                kept.append(line)
        if len(kept) < len(lines):
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
