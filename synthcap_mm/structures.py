"""What travels between the parts: tags, caption samples and prefix batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: Where a feature comes from: a drawn or retrieved image, a caption, a real photo.
SOURCES = ("pseudo", "text", "real")


@dataclass(slots=True)
class Tag:
    """A detected object.

    Attributes:
        name: class name, e.g. ``'dog'``.
        score: confidence in [0, 1].
        box: ``(x1, y1, x2, y2)`` in pixels of the original image, before :mod:`synthcap_mm.images` reduced it; ``None``
            for a tag without a place (zero-shot classification).
        area: share of the image that the box covers, in [0, 1]; 1.0 without a box.
    """

    name: str
    score: float
    box: tuple[float, float, float, float] | None = None
    area: float = 1.0


def group_id(group: str) -> int:
    """A stable 63-bit integer for a group's name, the same on every rank and run."""
    return int.from_bytes(hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=8).digest(), "little") >> 1


@dataclass(slots=True)
class CaptionSample:
    """One item of a dataset, and, after ``predict``, what was written for it.

    Attributes:
        sample_id: stable within its dataset; seeds the sample's randomness.
        key: the image's (or held-out group's) key, on which metrics join.
        source: one of :data:`SOURCES`.
        feat: image feature, ``(D,)`` float32, or ``None`` when ``image`` is given
            (or the prefix is made from text only).
        text_feat: the caption's feature, ``(D,)`` float32.
        image: the picture, when features were not made beforehand.
        caption: the sentence to learn; ``None`` at inference.
        references: the sentences to be scored against.
        domain: part of the dataset that is scored by itself too (NoCaps' ``'in-domain'``, …), or ``None``.
        tags: all stored detections; the preprocessor chooses among them.
        memory_row: row of the caption in its store's captions table, -1 if none.
        group: :func:`group_id` of the caption's group, -1 if none.
        weight: weight of the sample in the caption loss.
        pred_caption: best caption.
        pred_captions: n-best, best first.
        pred_logprobs: summed token log-probability of each of ``pred_captions``.
        pred_scores: the score that each was ranked by (length-normalised for beams).
        pred_tags: names of the tags that were put in the prompt.
        grid: features of the image's places, ``(N, C)`` float32, or ``None``.
    """

    sample_id: int
    key: str
    source: str = "pseudo"
    feat: torch.Tensor | None = None
    text_feat: torch.Tensor | None = None
    image: Image | None = None
    caption: str | None = None
    references: list[str] | None = None
    tags: list[Tag] = field(default_factory=list)
    memory_row: int = -1
    group: int = -1
    weight: float = 1.0
    pred_caption: str | None = None
    pred_captions: list[str] | None = None
    pred_logprobs: list[float] | None = None
    pred_scores: list[float] | None = None
    pred_tags: list[str] | None = None
    domain: str | None = None
    grid: torch.Tensor | None = None

    def __reduce__(self) -> tuple:
        # Between processes torch hands a tensor over as an open file, and a batch has more samples than a process may
        # have files (ulimit -n). An array's values go through the pipe.
        values = (getattr(self, name) for name in self.__slots__)
        return _received, tuple(v.numpy(force=True) if hasattr(v, "numpy") else v for v in values)


def _received(*values: Any) -> CaptionSample:
    import numpy as np
    import torch

    return CaptionSample(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))


@dataclass(slots=True)
class PrefixBatch:
    """What necks take and return.

    Attributes:
        feats: ``(B, D)`` float32, L2-normalised; the last neck (the projector)
            makes it ``(B, L, W)``: L prefix embeddings of the decoder's width.
        source: one of :data:`SOURCES`, the same for the whole batch.
        text_feats: ``(B, D)`` float32 features of the captions to learn, or ``None``.
        memory_rows: ``(B,)`` long, see :class:`CaptionSample`, or ``None``.
        group_ids: ``(B,)`` long, -1 where unknown, or ``None``.
        weights: ``(B,)`` float32 weights in the caption loss, or ``None``.
        context: ``(B, N, C)`` float32, what a head with cross-attention attends to, or ``None``.
        prompts: B texts that the decoder reads before the caption and the prompt of tags, or ``None``.
    """

    feats: torch.Tensor
    source: str
    text_feats: torch.Tensor | None = None
    memory_rows: torch.Tensor | None = None
    group_ids: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    context: torch.Tensor | None = None
    prompts: list[str] | None = None

    def replace(self, **changes: Any) -> PrefixBatch:
        """A copy with some fields changed."""
        return replace(self, **changes)
