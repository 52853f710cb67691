"""Real pairs, for the upper bound: each caption with the photo of its own scene."""

import torch

from synthcap_mm.models.generators.base import BaseRetriever
from synthcap_mm.registry import DATASETS, MODELS


@MODELS.register_module()
class PairedPhotos(BaseRetriever):
    """Answers a caption with the photo whose key is the caption's group.

    This is what a user of the toolbox does not have; it bounds what the pseudo
    pairs can be worth.

    Args:
        pool: config of a photo source whose keys are the captions' groups.
    """

    def __init__(self, pool):
        super().__init__()
        self.pool = pool
        self._rows = {key: row for row, key in enumerate(DATASETS.build(pool).keys)}

    def set_pool(self, features):
        self._features = features

    def retrieve(self, text_feats, captions, seeds, k=None):
        rows = torch.tensor([self._rows[c.group] for c in captions])
        scores = (text_feats.cpu() * torch.nn.functional.normalize(self._features[rows].float().cpu(), dim=-1)).sum(1)
        return rows[:, None], scores[:, None]

    def provenance(self):
        return {"type": "PairedPhotos"}
