"""Gaussian noise on features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.options import NotNegative
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .base import BaseNeck


@MODELS.register_module()
class NoiseInjection(BaseNeck):
    """Adds Gaussian noise to the features and normalises them again.

    From `CapDec <https://arxiv.org/abs/2211.00575>`_: a caption's feature with
    noise covers the region where its image's feature may lie. The noise comes from
    torch's global generator.

    Args:
        variance (float): variance of the noise in each dimension. Defaults to
            0.016: CapDec's public code.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('train',)``.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('text', 'pseudo')``.

    Shape:
        ``feats`` (B, D) → (B, D), L2-normalised.
    """

    exportable = data("variance", "phases", "sources")

    def __init__(
        self,
        variance: NotNegative = 0.016,
        phases: Sequence[str] = ("train",),
        sources: Sequence[str] = ("text", "pseudo"),
    ) -> None:
        super().__init__(phases, sources)
        self.variance = float(variance)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Add the noise."""
        noise = torch.randn_like(batch.feats) * math.sqrt(self.variance)
        return batch.replace(feats=F.normalize(batch.feats + noise, dim=-1)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"variance={self.variance}, {super().extra_repr()}"
