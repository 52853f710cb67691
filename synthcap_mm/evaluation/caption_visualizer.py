"""A drawing of why a captioner wrote a caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.drawing import save_drawing, wrap_text
from synthcap_mm.images import original_size
from synthcap_mm.registry import VISUALIZERS
from synthcap_mm.structures import Tag

_PHOTO = 480  # longest side of the photo, pixels
_COLUMN = 460  # width of the text beside it
_GAP = 16
_INK, _GREY, _BLUE, _BAR = "#111111", "#666666", "#1a5fb4", "#c9dcf3"
#: Colours of the boxes, one after another; dark enough for white letters.
_COLOURS = ("#c01c28", "#1a5fb4", "#26733a", "#8f3a9c", "#a35200", "#006d77")


@VISUALIZERS.register_module()
class CaptionVisualizer(Visualizer):
    """Draws a photo with the boxes of its tags, and beside it the captions, the memory's and the scores.

    Tags that are in the prompt have their boxes drawn; a tag without a box is named in
    the text only. Pillow's own font is used; it has Latin letters only.

    Args:
        name: of the instance. Defaults to ``'visualizer'``.
        **options: of MMEngine's ``Visualizer`` (``vis_backends``, ``save_dir``, …).
    """

    def __init__(self, name: str = "visualizer", **options: Any) -> None:
        super().__init__(name, **options)

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray | Image.Image,
        data_sample: Any,
        draw_gt: bool = False,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        step: int = 0,
    ) -> np.ndarray:
        """Draw a result.

        Args:
            name: of the drawing, for the backends.
            image: the photo, ``(H, W, 3)`` uint8 RGB, or in RGB as :mod:`synthcap_mm.images` reads it: that one knows
                the size that boxes are for.
            data_sample: a result of ``CaptionInferencer`` (``sample``, ``memory``, ``clip_score``).
            draw_gt: the references, where the sample has them. Defaults to ``False``.
            draw_pred: what was written. Defaults to ``True``.
            show: open a window. Defaults to ``False``.
            wait_time: seconds that the window stays; 0: until a key is pressed. Defaults to 0.
            out_file: file to write, whole or not at all. Defaults to ``None``: the backends have it.
            step: for the backends. Defaults to 0.

        Returns:
            ndarray: the drawing, ``(H, W, 3)`` uint8 RGB.

        Raises:
            UserError: if the result has no captions, or ``out_file`` no extension of an image.
        """
        sample = data_sample.sample
        if sample is None or not sample.pred_captions:
            raise UserError(f"{data_sample.key} has no captions to draw: {data_sample.error or 'caption it first'}")
        photo, scale = _photo(image)
        in_prompt = [tag for tag in sample.tags if tag.name in (sample.pred_tags or []) and tag.box is not None]
        if draw_pred:
            _draw_boxes(photo, in_prompt, scale)
        lines = _texts(data_sample, draw_gt, draw_pred)
        drawn = np.asarray(_beside(photo, lines))
        self.set_image(drawn)
        if out_file is not None:
            save_drawing(Image.fromarray(drawn), out_file)
        else:
            self.add_image(name, drawn, step)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        return drawn


def draw_tags(image: Image.Image, tags: Sequence[Tag]) -> Image.Image:
    """A copy of a photo, enlarged if it is small, with the boxes of tags, their names and scores.

    Args:
        image: the photo.
        tags: those without a box are passed over.
    """
    photo, scale = _photo(image.convert("RGB"))
    _draw_boxes(photo, [tag for tag in tags if tag.box is not None], scale)
    return photo


def _photo(image: np.ndarray | Image.Image) -> tuple[Image.Image, float]:
    """A photo at the size at which it is drawn, and what boxes are multiplied by."""
    photo = image if isinstance(image, Image.Image) else Image.fromarray(image)
    scale = _PHOTO / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS), _PHOTO / max(original_size(photo))


def _draw_boxes(photo: Image.Image, tags: Sequence[Tag], scale: float) -> None:
    draw, font = ImageDraw.Draw(photo), ImageFont.load_default(14)
    for number, tag in enumerate(tags):
        colour = _COLOURS[number % len(_COLOURS)]
        x1, y1, x2, y2 = (value * scale for value in tag.box)
        x1, y1, x2, y2 = max(0, x1), max(0, y1), min(photo.width - 1, x2), min(photo.height - 1, y2)
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=3)
        label = f"{tag.name} {tag.score:.2f}"
        width = font.getlength(label) + 8
        left, top = min(max(0, x1), max(0, photo.width - width)), max(0, y1 - 20)
        draw.rectangle((left, top, left + width, top + 20), fill=colour)
        draw.text((left + 4, top + 2), label, "white", font)


#: A line: its text, size, colour, share of the width that a bar behind it fills, and whether there is a gap before it.
_Line = tuple[str, int, str, float, bool]


def _texts(result: Any, draw_gt: bool, draw_pred: bool) -> list[_Line]:
    sample = result.sample
    lines: list[_Line] = []
    if draw_pred:
        lines.append((sample.pred_caption or "(nothing was written)", 22, _INK, 0.0, False))
        if result.clip_score is not None:
            lines.append((f"CLIPScore {result.clip_score:.3f}", 14, _GREY, 0.0, False))
        rows = list(zip(sample.pred_captions, sample.pred_logprobs, sample.pred_scores))
        for number, (caption, logprob, score) in enumerate(rows):
            text = f"{number + 1}. {caption}  (log p {logprob:.2f}, ranked by {score:.3f})"
            lines.append((text, 14, _INK, 0.0, number == 0))
        named = ", ".join(sample.pred_tags or []) or "none"
        lines.append((f"tags in the prompt: {named}", 14, _BLUE, 0.0, True))
        if result.memory is not None:
            shown = sum(weight for _, weight in result.memory)
            title = f"captions of the memory, with their weights (in all {shown:.0%}):"
            lines.append((title, 14, _GREY, 0.0, True))
            most = max((weight for _, weight in result.memory), default=1.0) or 1.0
            for caption, weight in result.memory:
                lines.append((f"{weight:.3f}  {caption}", 14, _INK, weight / most, False))
    if draw_gt:
        for number, reference in enumerate(sample.references or []):
            lines.append((f"ref: {reference}", 14, _GREY, 0.0, number == 0))
    return lines


def _beside(photo: Image.Image, lines: Sequence[_Line]) -> Image.Image:
    rows = []
    y = _GAP
    for text, size, colour, bar, gap in lines:
        font = ImageFont.load_default(size)
        y += 10 * gap
        for number, piece in enumerate(wrap_text(text, font, _COLUMN - 8)):
            rows.append((y, piece, font, colour, bar if number == 0 else 0.0, size))
            y += round(1.35 * size)
    height = max(photo.height + 2 * _GAP, y + _GAP)
    drawing = Image.new("RGB", (photo.width + 3 * _GAP + _COLUMN, height), "white")
    drawing.paste(photo, (_GAP, _GAP))
    draw, left = ImageDraw.Draw(drawing), photo.width + 2 * _GAP
    for top, piece, font, colour, bar, size in rows:
        if bar > 0:
            draw.rectangle((left, top, left + bar * _COLUMN, top + round(1.3 * size)), fill=_BAR)
        draw.text((left + 4, top), piece, colour, font)
    return drawing
