"""The floor of a captioner: each photo gets the training caption whose feature is nearest to the photo's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from synthcap_mm.apis.experiments import POOLED
from synthcap_mm.evaluation import score_captions
from synthcap_mm.stores import Store
from synthcap_mm.structures import CaptionSample


def nearest_captions(pairs: str, photos: Sequence[CaptionSample]) -> dict[str, str]:
    """For each photo the training caption that is nearest to it.

    Args:
        pairs: store of the captions.
        photos: with features.

    Returns:
        Photo's key → caption.
    """
    store = Store.open(pairs)
    rows = store.caption_rows("train")
    memory = F.normalize(torch.from_numpy(store.caption_features(rows)).float(), dim=1)
    nearest = (torch.stack([photo.feat for photo in photos]) @ memory.T).argmax(1).tolist()
    return {photo.key: store.captions.value("text", int(rows[n])) for photo, n in zip(photos, nearest)}


def score_by_place(
    captions: Mapping[str, str], photos: Mapping[str, Sequence[CaptionSample]]
) -> dict[str, tuple[dict[str, float], dict[str, dict[str, float]]]]:
    """Scores on each set of photos, and on all together as one set.

    Args:
        captions: photo's key → caption.
        photos: set → its photos, with references.

    Returns:
        Set (and :data:`POOLED`) → see :func:`score_captions`.
    """
    places = {**photos, POOLED: [photo for own in photos.values() for photo in own]}
    return {
        place: score_captions({p.key: captions[p.key] for p in own}, {p.key: p.references for p in own})
        for place, own in places.items()
    }
