"""Re-expressing a feature by the captions that lie near it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.options import Count, Name, Positive
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES, check_finite
from .memory_attention import memory_attention
from .memory_neck import MemoryNeck


@MODELS.register_module()
class TextMemoryProjection(MemoryNeck):
    r"""Projects features onto a memory of caption features.

    :math:`p = \mathrm{normalise}\left(\sum_i \mathrm{softmax}_i(v \cdot m_i / \tau)\, m_i\right)`, as in
    `DeCap <https://arxiv.org/abs/2303.03032>`_ and, for training as well as
    inference, `SynTIC <https://arxiv.org/abs/2312.08865>`_: an image's feature
    becomes a mixture of caption features, which closes CLIP's modality gap.

    Args:
        memory (str, optional): see :class:`MemoryNeck`. Defaults to ``None``: the captioner's store.
        temperature (float): :math:`\tau`, of the encoder. Defaults to 0.01: DeCap's
            public code and CLIP's own temperature; for SynTIC assumed.
        exclude_self (bool): in phase ``'train'``, hide from each query the row of
            its own caption (another caption of the same words stays). Defaults to ``False``: assumed, as DeCap's
            public code trains without; a switch to ablate.
        split (str, optional): see :class:`MemoryNeck`. Defaults to ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): see :class:`MemoryNeck`. Defaults to 8192.

    Shape:
        ``feats`` (B, D) in any float dtype → (B, D) float32, L2-normalised.

    Raises:
        ValueError: in use, if features are not finite, their width is not the memory's, or ``exclude_self`` meets a
            batch without ``memory_rows`` or leaves no memory.
        UserError: in use, if there is no memory.
    """

    exportable = data("temperature", "exclude_self", "split", "phases", "sources")

    def __init__(
        self,
        memory: Name | None = None,
        temperature: Positive = 0.01,
        exclude_self: bool = False,
        split: Literal["train", "heldout"] | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: Count = 8192,
    ) -> None:
        super().__init__(memory, split, phases, sources, block_size)
        self.temperature = float(temperature)
        self.exclude_self = exclude_self

    def project(self, feats: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Project features, without regard to phases and sources.

        Args:
            feats (Tensor): ``(B, D)``, any float dtype.
            excluded (Tensor, optional): ``(B,)`` long, places in the memory, or -1. Defaults to ``None``.

        Returns:
            Tensor: ``(B, D)`` float32, L2-normalised; differentiable in ``feats``.
        """
        memory = self.bound(feats.device).features
        with torch.amp.autocast(feats.device.type, enabled=False):
            feats = feats.float()
            check_finite(type(self).__name__, feats)
            return F.normalize(memory_attention(feats, memory, self.temperature, excluded, self.block_size), dim=-1)

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Replace the features by their projections."""
        excluded = self.own_places(batch) if self.exclude_self and phase == "train" else None
        return batch.replace(feats=self.project(batch.feats, excluded)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"temperature={self.temperature}, exclude_self={self.exclude_self}, {super().extra_repr()}"
