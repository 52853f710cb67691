"""Tags computed when a dataset is read, in place of a store's detections."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.models.named_encoder import named_encoder
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import Tag

#: Features that are looked at together.
_BLOCK = 4096


def caption_tagger(config: dict[str, Any]) -> Any:
    """Build a provider of tags from captions.

    Raises:
        UserError: if it needs images instead.
    """
    tagger = MODELS.build(dict(config))
    if not hasattr(tagger, "tag_captions"):
        raise UserError(
            f"tags={config['type']} reads images, and training samples need tags from their captions "
            "(tags=dict(type='CaptionEntities', vocabulary=...)); tags of training images are the store's: "
            "synthesis.tag_provider"
        )
    return tagger


def tags_by_features(config: dict[str, Any], store: Store, rows: np.ndarray) -> list[list[Tag]]:
    """Tags of a store's images, from their stored features.

    Args:
        config: of a provider with ``detect_features``, e.g. :class:`CLIPTagProvider` or :class:`RetrievedEntities`.
        store: the store.
        rows: rows of its images.

    Returns:
        One list for each row.

    Raises:
        UserError: if the provider needs pixels or captions, or its encoder is not the store's.
    """
    tagger = MODELS.build(dict(config))
    if not hasattr(tagger, "detect_features"):
        raise UserError(
            f"tags={config['type']} has no detect_features, so it cannot name what is in a stored image by its "
            "feature: use CLIPTagProvider or RetrievedEntities, or leave tags out for the store's detections"
        )
    source = tagger if hasattr(tagger, "fingerprint") else tagger.encoder
    name = named_encoder(tagger)
    store.check_encoder(source.fingerprint(), f"tags={config['type']}", name)
    features = store.image_features(name)
    found: list[list[Tag]] = []
    for start in range(0, len(rows), _BLOCK):
        feats = torch.from_numpy(features.features(rows[start : start + _BLOCK])).float()
        found += tagger.detect_features(feats)
    return found
