"""Real pairs, for an upper bound: each caption with the photo of its own scene."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from synthcap_mm.models.generators.base import BaseRetriever
from synthcap_mm.registry import DATASETS, MODELS


@MODELS.register_module()
class PairedPhotos(BaseRetriever):
    """Answers a caption with the photo whose key is the caption's group.

    This is what a user of the toolbox does not have; it bounds what pseudo
    pairs can be worth.

    Args:
        pool (dict): config of a photo source whose keys are the captions' groups.

    Raises:
        ValueError: in use, if a caption's group has no photo.
    """

    def __init__(self, pool: dict[str, Any]) -> None:
        super().__init__()
        self.pool = pool
        self._rows = {key: row for row, key in enumerate(DATASETS.build(pool).keys)}

    def set_pool(self, features: Any) -> None:
        """See :meth:`BaseRetriever.set_pool`."""
        self._features = features

    def retrieve(
        self, text_feats: torch.Tensor, captions: list[Any], seeds: list[int], k: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`BaseRetriever.retrieve`; there is one photo a caption, whatever ``k`` is."""
        without = [c.id for c in captions if c.group not in self._rows]
        if without:
            raise ValueError(f"PairedPhotos: {len(without)} captions have no photo of their group: {without[:5]}")
        rows = torch.tensor([self._rows[c.group] for c in captions])
        feats = F.normalize(torch.as_tensor(self._features[rows]).float().cpu(), dim=-1)
        return rows[:, None], (text_feats.float().cpu() * feats).sum(1)[:, None]
