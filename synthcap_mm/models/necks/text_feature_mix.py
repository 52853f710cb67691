"""Training on the captions' own features beside the pseudo images'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.options import Chance
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import PrefixBatch

from .base import BaseNeck


@MODELS.register_module()
class TextFeatureMix(BaseNeck):
    """Replaces, sample by sample and with a chance, the pseudo feature by the caption's own.

    Several captions may share one image, or have a poor one; the caption's feature is always
    there, and of the very sentence. Still nothing but text is needed. No part of SynTIC
    as published.

    Its place in the list of necks decides what the caption's feature goes through: before a
    ``TextMemoryProjection`` it is projected like a pseudo feature, after it the decoder
    gets it as DeCap's does. A ``PseudoFeatureOptimizer`` should come before it, since
    captions' features need no optimising. The source of the batch stays as it was. The
    draw comes from torch's global generator, one number a sample.

    Args:
        prob (float): chance of the replacement, for each sample anew; 1.0 is ``TextAsPrefix`` but
            for the source. Defaults to 0.5: not tuned.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('train',)``: at
            inference the caption is what is asked for.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to ``('pseudo',)``.

    Shape:
        ``feats`` and ``text_feats`` (B, D) → ``feats`` (B, D).

    Raises:
        ValueError: in use, if a batch has no ``text_feats``.
    """

    exportable = data("prob", "phases", "sources")

    def __init__(
        self, prob: Chance = 0.5, phases: Sequence[str] = ("train",), sources: Sequence[str] = ("pseudo",)
    ) -> None:
        super().__init__(phases, sources)
        self.prob = float(prob)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Draw, and replace."""
        text = self._need_text_feats(batch)
        # Drawn on the CPU, so that the choice does not depend on the device.
        chosen = (torch.rand(len(text)) < self.prob).to(text.device)
        return batch.replace(feats=torch.where(chosen[:, None], text, batch.feats)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"prob={self.prob}, {super().extra_repr()}"
