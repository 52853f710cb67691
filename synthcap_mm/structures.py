"""What travels between the parts: tags, caption samples and prefix batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from synthcap_mm.errors import UserError, listed

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
        other_feats: image features by the encoders beside the store's own, by name, ``(D',)`` float32 each.
        other_text_feats: the caption's features by them.
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
    other_feats: dict[str, torch.Tensor] = field(default_factory=dict)
    other_text_feats: dict[str, torch.Tensor] = field(default_factory=dict)

    def __reduce__(self) -> tuple:
        # Between processes torch hands a tensor over as an open file, and a batch has more samples than a process may
        # have files (ulimit -n). An array's values go through the pipe.
        return _received, tuple(_sent(getattr(self, name)) for name in self.__slots__)


def _sent(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sent(one) for name, one in value.items()}
    return value.numpy(force=True) if hasattr(value, "numpy") else value


def _received(*values: Any) -> CaptionSample:
    import numpy as np
    import torch

    def received(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: received(one) for name, one in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    return CaptionSample(*map(received, values))


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
        other_feats: ``(B, D')`` float32 image features by the encoders beside the captioner's own, by name. Necks
            leave them as they are.
        other_text_feats: ``(B, D')`` float32 features of the captions by them.
    """

    feats: torch.Tensor
    source: str
    text_feats: torch.Tensor | None = None
    memory_rows: torch.Tensor | None = None
    group_ids: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    other_feats: dict[str, torch.Tensor] = field(default_factory=dict)
    other_text_feats: dict[str, torch.Tensor] = field(default_factory=dict)

    def feats_of(self, encoder: str | None) -> torch.Tensor:
        """Image features by an encoder: :attr:`feats` for ``None``, the captioner's own.

        Raises:
            UserError: if the batch has none by that encoder.
        """
        return self.feats if encoder is None else _by_name(self.other_feats, encoder)

    def text_feats_of(self, encoder: str | None) -> torch.Tensor | None:
        """Features of the captions by an encoder: :attr:`text_feats` for ``None``, the captioner's own.

        Raises:
            UserError: if the batch has none by that encoder.
        """
        return self.text_feats if encoder is None else _by_name(self.other_text_feats, encoder)

    def replace(self, **changes: Any) -> PrefixBatch:
        """A copy with some fields changed."""
        return replace(self, **changes)


def _by_name(features: Mapping[str, torch.Tensor], encoder: str) -> torch.Tensor:
    if encoder not in features:
        there = f"those of {listed(list(features))} only" if features else "no other encoder's"
        raise UserError(
            f"the captioner needs features of the encoder {encoder!r}, and this batch has {there}: give images, or a "
            f"store that was made with synthesis.other_encoders={{{encoder!r}: …}}"
        )
    return features[encoder]
