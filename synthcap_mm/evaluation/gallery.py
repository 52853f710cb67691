"""A drawing of images with their captions, tags and references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthcap_mm.evaluation.drawing import save_drawing, wrap_text
from synthcap_mm.structures import CaptionSample

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL = 320  # width of a column, pixels
_PADDING = 12
_PHOTO = (_CELL - 2 * _PADDING, 222)  # box that a photo is fitted into, 4:3
_CAPTION, _TAGS, _REFERENCE, _TITLE = (16, "#111111"), (13, "#1a5fb4"), (13, "#666666"), (22, "#111111")


def _fit(photo: Image) -> Image:
    """The photo as large as the box allows; small ones are enlarged."""
    from PIL import Image

    scale = min(_PHOTO[0] / photo.width, _PHOTO[1] / photo.height)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _texts(sample: CaptionSample) -> list[tuple[str, tuple[int, str]]]:
    """What stands below a photo: text, and its size and colour."""
    tags = sample.pred_tags if sample.pred_tags is not None else [tag.name for tag in sample.tags]
    texts = [(sample.pred_caption or "(nothing was written)", _CAPTION)]
    texts.append((f"tags: {', '.join(tags) or 'none'}", _TAGS))
    texts += [(f"ref: {reference}", _REFERENCE) for reference in sample.references or []]
    return texts


def save_gallery(
    samples: Sequence[CaptionSample],
    load_image: Callable[[str], Image],
    path: str | Path,
    columns: int = 4,
    title: str | None = None,
) -> Path:
    """Draw images with their captions, tags and references.

    Pillow's own font is used; it has Latin letters only.

    Args:
        samples (Sequence[CaptionSample]): at least one, after ``predict``: ``pred_caption``,
            ``pred_tags`` (else the names of ``tags``), ``references``.
        load_image (Callable[[str], PIL.Image.Image]): gives the image of a sample's ``key``.
        path (str | Path): file to write; see :func:`~synthcap_mm.evaluation.drawing.save_drawing`.
        columns (int): images in a row. Defaults to 4.
        title (str, optional): line above all.

    Returns:
        Path: ``path``.

    Raises:
        UserError: if the extension is none of an image.
    """
    from PIL import Image, ImageDraw, ImageFont

    fonts = {style: ImageFont.load_default(style[0]) for style in (_CAPTION, _TAGS, _REFERENCE, _TITLE)}

    cells = []
    for sample in samples:
        lines = [
            (line, style, n == 0 and style is not _CAPTION)  # a gap before each text but the caption
            for text, style in _texts(sample)
            for n, line in enumerate(wrap_text(text, fonts[style], _PHOTO[0]))
        ]
        cells.append((_fit(load_image(sample.key)), lines))

    def height(lines: Sequence[tuple[str, tuple[int, str], bool]]) -> int:
        return _PHOTO[1] + 3 * _PADDING + sum(round(1.3 * style[0]) + 3 * gap for _, style, gap in lines)

    columns = min(columns, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(height(lines) for _, lines in row) for row in rows]
    titles = wrap_text(title, fonts[_TITLE], columns * _CELL - 2 * _PADDING) if title else []
    top = len(titles) * round(1.4 * _TITLE[0]) + _PADDING if titles else 0
    drawing = Image.new("RGB", (columns * _CELL, top + sum(heights)), "white")
    draw = ImageDraw.Draw(drawing)
    for n, line in enumerate(titles):
        draw.text((_PADDING, _PADDING + n * round(1.4 * _TITLE[0])), line, _TITLE[1], fonts[_TITLE])
    for row, row_height in zip(rows, heights, strict=True):
        for column, (photo, lines) in enumerate(row):
            left = column * _CELL + _PADDING
            drawing.paste(photo, (left + (_PHOTO[0] - photo.width) // 2, top + _PADDING))
            y = top + 2 * _PADDING + _PHOTO[1]
            for line, style, gap in lines:
                y += 3 * gap
                draw.text((left, y), line, style[1], fonts[style])
                y += round(1.3 * style[0])
        top += row_height
        draw.line((0, top - 1, drawing.width, top - 1), "#dddddd")
    save_drawing(drawing, path)
    return Path(path)
