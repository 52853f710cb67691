"""How well captions fit images, in the eyes of the encoder: CLIPScore and RefCLIPScore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Features = np.ndarray | Tensor | Sequence[Sequence[float]]


def _unit_rows(feats: Features, name: str, columns: int | None = None) -> np.ndarray:
    """Features as float64 rows of length 1; a row of zeros (a caption without words) stays one."""
    rows = feats.detach().cpu().float().numpy() if hasattr(feats, "detach") else feats
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or (columns is not None and rows.shape[1] != columns):
        wanted = "(N, D)" if columns is None else f"(N, {columns}), as wide as the image features"
        raise ValueError(f"{name} has the shape {rows.shape}; expected {wanted}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} is not finite in {len(bad)} rows, the first is row {bad[0]}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def clip_score(image_feats: Features, text_feats: Features, w: float = 2.5) -> np.ndarray:
    """CLIPScore of each image and its caption (Hessel et al., "CLIPScore", EMNLP 2021): ``w · max(cos, 0)``.

    The paper puts "A photo depicts" before each caption; that is for the caller to
    do, as it decides the text feature.

    Args:
        image_feats (array or Tensor): ``(N, D)``, any length.
        text_feats (array or Tensor): ``(N, D)`` of the captions, in the same order.
        w (float): scale. Defaults to the paper's 2.5, with which CLIP ViT-B/32's
            scores of good captions lie near 0.75.

    Returns:
        ndarray: ``(N,)`` float64 in ``[0, w]``, not ×100.

    Raises:
        ValueError: for shapes that do not fit, or features that are not finite.
    """
    images = _unit_rows(image_feats, "image_feats")
    texts = _unit_rows(text_feats, "text_feats", images.shape[1])
    if len(images) != len(texts):
        raise ValueError(f"there are {len(images)} image features and {len(texts)} text features; one caption an image")
    return w * np.maximum((images * texts).sum(axis=1), 0.0)


def ref_clip_score(
    image_feats: Features, text_feats: Features, reference_feats: Sequence[Features], w: float = 2.5
) -> np.ndarray:
    """RefCLIPScore: the harmonic mean of CLIPScore and the largest clamped cosine with a reference.

    Source: Hessel et al., "CLIPScore", EMNLP 2021, section 3.

    Args:
        image_feats (array or Tensor): see :func:`clip_score`.
        text_feats (array or Tensor): see :func:`clip_score`.
        reference_feats (Sequence[array or Tensor]): for each image the features
            ``(R_i, D)`` of its references, at least one.
        w (float): scale of CLIPScore. Defaults to 2.5.

    Returns:
        ndarray: ``(N,)`` float64, not ×100; 0 where either of the two is 0.

    Raises:
        ValueError: see :func:`clip_score`; also if an image has no reference.
    """
    scores = clip_score(image_feats, text_feats, w)
    if len(reference_feats) != len(scores):
        raise ValueError(f"there are references of {len(reference_feats)} images and {len(scores)} captions")
    if not len(scores):
        return scores
    texts = _unit_rows(text_feats, "text_feats")
    nearest = np.array(
        [
            (_unit_rows(feats, f"reference_feats[{row}]", texts.shape[1]) @ texts[row]).max()
            for row, feats in enumerate(reference_feats)
        ]
    )
    nearest = np.maximum(nearest, 0.0)
    total = scores + nearest
    return np.divide(2 * scores * nearest, total, out=np.zeros_like(total), where=total > 0)
