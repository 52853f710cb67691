"""A file of written captions, a line an image: appended to as they come, and continued after any stop."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from synthcap_mm.errors import UserError
from synthcap_mm.files import locked, naming, parse_json, read_json, write_atomically, write_json


class CaptionLines:
    """``captions.jsonl``: an object with ``image`` and ``captions``, or ``image`` and ``error``, a line.

    Of a file it also has ``file``: real path, size in bytes and time of change in ns, by which a photo is known again.

    The settings that the captions were written with stand beside the file, in ``NAME.settings.json``; a file of other
    settings is not continued. When a file is opened again, a line that a kill cut short is removed, and so are errors
    and the captions of wanted photos that changed: these are tried again. A file name that is not UTF-8 has JSON's
    escapes for the bytes that are not: ``os.fsencode`` of the value that was read gives the name.

    A context manager. One process at a time writes a file: the hidden file ``.NAME.lock`` is locked.

    Args:
        path: the file; its folder is made.
        settings: plain values that decide the captions.
        wanted: what is to be captioned, see :func:`~synthcap_mm.inference.inputs.identity`. Default: nothing.

    Attributes:
        done (set): identities of images that have their captions.

    Raises:
        UserError: if the file was written with other settings, is not such a file, or another process writes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: dict[str, Any],
        wanted: Iterable[tuple[str, int, int] | str] = (),
    ) -> None:
        self.path = Path(path)
        self.done: set[tuple[str, int, int] | str] = set()
        self._now = {one[0]: one for one in wanted if isinstance(one, tuple)}
        self._file: BinaryIO | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as lock:
            lock.enter_context(
                locked(
                    self.path.with_name(f".{self.path.name}.lock"),
                    f"another process writes {self.path}: wait for its end, or give another --out",
                )
            )
            self._continue(json.loads(json.dumps(settings)))
            self._lock = lock.pop_all()

    def _continue(self, settings: dict[str, Any]) -> None:
        notes = self.path.with_name(self.path.name + ".settings.json")
        if self.path.is_file() and self.path.stat().st_size:
            self._compare(notes, settings)
            self._keep_captions()
        else:
            write_json(notes, settings)

    def _compare(self, notes: Path, settings: dict[str, Any]) -> None:
        try:
            old = dict(read_json(notes))
        except (OSError, UserError, ValueError, TypeError):
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
        """Remove errors, captions of changed photos and a line that was cut short; remember what is there."""
        with open(self.path, "rb") as file:
            lines = file.readlines()
        kept = []
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                continue
            try:
                row = dict(parse_json(self.path, line, number))
                path, *change = row.get("file", [row["image"]])
                one = (path, *change) if change else path
                if "error" not in row and self._now.get(path, one) == one:
                    self.done.add(one)
                    kept.append(line)
            except (UserError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}, line {number} is no line of captions ({error!r}): delete it") from error
        if len(kept) < len(lines):
            with write_atomically(self.path) as file:
                file.writelines(kept)

    def __enter__(self) -> CaptionLines:
        self._file = open(self.path, "ab", buffering=0)
        return self

    def write(self, prediction: dict[str, Any]) -> None:
        """Write a line; it is with the operating system when this returns.

        Raises:
            OSError: if it cannot be written, with the file's name.
        """
        line = json.dumps(prediction, ensure_ascii=False, allow_nan=False) + "\n"
        rest = line.encode(errors="backslashreplace")  # of a lone surrogate: \udcff, which JSON reads
        with naming(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.close()
