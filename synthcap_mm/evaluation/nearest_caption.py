"""The floor of a captioner: each photo gets the training caption whose feature is nearest to the photo's."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from synthcap_mm.store import Store
from synthcap_mm.store.topk import blockwise_topk
from synthcap_mm.store.unit_rows import UnitRows
from synthcap_mm.structures import CaptionSample

#: Before the name of a metric: that of the nearest captions, ``'nearest/CIDEr'``.
NEAREST = "nearest"


def floor_of(metric: str) -> str:
    """The name of the floor beside a metric: ``'in-domain/CIDEr'`` has ``'in-domain/nearest/CIDEr'``."""
    where, slash, name = metric.rpartition("/")
    return f"{where}{slash}{NEAREST}/{name}"


def nearest_captions(
    pairs: str | os.PathLike, photos: Sequence[CaptionSample], block_size: int = 8192
) -> dict[str, str]:
    """For each photo the training caption nearest to it by cosine; a captioner that is worth its training beats it.

    Args:
        pairs: store of the captions; those that are held out are none to choose.
        photos: with ``key`` and ``feat``, ``(D,)`` each, by the store's encoder
            (:class:`~synthcap_mm.datasets.CaptionEvalDataset` has them).
        block_size: captions that are looked at together, so that memory does not grow with their number.
            Default 8192.

    Returns:
        Photo's key → caption; of captions equally near, the first in the store.

    Raises:
        ValueError: if there is no training caption, or a photo has no feature.
    """
    store = Store.open(pairs)
    rows = store.caption_rows("train")
    if not len(rows):
        raise ValueError(f"{pairs} has no captions to train on")
    without = [photo.key for photo in photos if photo.feat is None]
    if without:
        raise ValueError(f"{len(without)} photos have no feature, the first is {without[0]}")
    if not photos:
        return {}
    # The answer is the same on any device; a GPU is faster.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    queries = F.normalize(torch.stack([photo.feat for photo in photos]).float(), dim=1).to(device)
    _, nearest = blockwise_topk(queries, UnitRows(store.captions, rows), 1, block_size)
    found = rows[nearest[:, 0].cpu().numpy()].tolist()
    return {photo.key: store.captions.value("text", row) for photo, row in zip(photos, found, strict=True)}
