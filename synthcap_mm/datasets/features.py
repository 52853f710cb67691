"""Stored features as the models take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from synthcap_mm.store import Store


def as_feature(row: np.ndarray, where: str) -> Tensor:
    """A stored float16 feature as a float32 tensor of length 1 (rounding moved it a little).

    Args:
        row: ``(D,)``.
        where: what it is, for the message.

    Raises:
        ValueError: if it has NaN, infinity or only zeros in it.
    """
    feature = torch.from_numpy(row.astype(np.float32))
    norm = feature.norm()
    if not 0 < float(norm) < float("inf"):  # NaN fails both comparisons
        raise ValueError(f"{where} is not a feature (norm {float(norm)}); delete its shard and make it again")
    return feature / norm


def other_features(store: Store, kind: str, row: int) -> dict[str, Tensor]:
    """Features of a caption or an image by the encoders beside a store's own, by the encoder's name.

    Args:
        store: the store.
        kind: ``'text'`` or ``'image'``.
        row: of the caption or image.

    Raises:
        ValueError: see :func:`as_feature`.
    """
    return {
        name: as_feature(table.feature(row), f"{kind} {row} of {store.path}, by its encoder {name!r},")
        for name in store.other_encoders
        for table in [store.text_features(name) if kind == "text" else store.image_features(name)]
    }
