"""Text that has to fit into a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


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
