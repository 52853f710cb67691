"""What drawings of captions share: lines of text that fit, and a file that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synthcap_mm.errors import UserError
from synthcap_mm.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont


def save_drawing(drawing: Image, path: str | Path) -> None:
    """Write a drawing, whole or not at all.

    Args:
        drawing: the drawing.
        path: file to write; its extension is the format (``.png``, ``.jpg``, …).

    Raises:
        UserError: if the extension is none of an image.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(f"{path}: {Path(path).suffix!r} is not an image's extension; use .png or .jpg")
    with write_atomically(path) as file:
        drawing.save(file, format=kind)


def wrap_text(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """Lines of ``text`` that are at most ``width`` pixels wide; longer words are cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while font.getlength(word) > width and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines[-1], word = word[:cut], word[cut:]
            lines.append("")
        lines[-1] = word
    return lines
