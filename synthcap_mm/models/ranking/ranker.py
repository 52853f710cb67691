"""Orders the captions that an image may get."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from synthcap_mm.exportable import Parts, data
from synthcap_mm.models.remembering import RemembersCaptions
from synthcap_mm.options import CountOrZero, Model, Name
from synthcap_mm.registry import MODELS

from .candidates import Candidates


@MODELS.register_module()
class CaptionRanker(RemembersCaptions):
    """Orders captions by the sum of several scores, which nobody has to train.

    Scores have different scales, so each is standardised among the captions of an image (mean 0, deviation 1) and
    counts by its ``weight``. What they have in common is an order, and how clear it is.

    Args:
        scores: configs of :class:`~synthcap_mm.models.ranking.RankingScore` by name; ``None`` in place of one leaves it
            out.
        retrieved: captions of the memory that may be chosen too, nearest to the image first. 0: only the decoder's
            own. Default 0.
        encoder: name of the encoder that retrieves, if it is not the captioner's own (``synthesis.other_encoders``).
            Default ``None``.
    """

    exportable = {"scores": Parts(), **data("retrieved", "encoder")}

    def __init__(
        self, scores: Mapping[str, Model | None], retrieved: CountOrZero = 0, encoder: Name | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.retrieved = retrieved
        self.scores = {name: MODELS.build(score) for name, score in scores.items() if score is not None}

    @property
    def retrieves(self) -> int:
        """How many captions of the memory it wants for each image: candidates, or what a score compares with."""
        return max([self.retrieved, *(getattr(score, "retrieves", 0) for score in self.scores.values())])

    @torch.no_grad()
    def rank(self, candidates: Candidates) -> Tensor:
        """Scores of the candidates.

        Args:
            candidates: B images with N captions each.

        Returns:
            ``(B, N)``, larger is better.
        """
        total = torch.zeros_like(candidates.logprobs)
        for score in self.scores.values():
            values = score.score(candidates, self.memory).to(total)
            deviation = values.std(dim=1, keepdim=True, correction=0)
            total += score.weight * (values - values.mean(dim=1, keepdim=True)) / deviation.clamp_min(1e-6)
        return total
