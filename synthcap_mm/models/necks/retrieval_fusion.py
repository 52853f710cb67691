"""Captions like the one that is wanted, fused into the feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.registry import MODELS
from synthcap_mm.structures import SOURCES, PrefixBatch, group_id

from .base import PHASES, check_finite
from .memory_attention import BestRows, block_logits
from .pseudo_feature_optimizer import SAME_CAPTION
from .text_memory_projection import TextMemoryProjection

_QUERIES = ("text", "feats")


@MODELS.register_module()
class RetrievalFusion(TextMemoryProjection):
    r"""Retrieves captions from the memory and adds what attention finds in them to the feature.

    After `IFCap <https://arxiv.org/abs/2409.18046>`_: in training the query is the caption's feature with Gaussian
    noise, so that what is retrieved is about as far off as what an image's feature retrieves; at inference the query
    is the image's feature. The feature attends to the :math:`k` retrieved ones by learnt multi-head attention:
    :math:`v' = \mathrm{normalise}(v + \mathrm{Attention}(v, R, R))`. The original has
    further layers behind the attention; the sum (assumed) lets the feature through from the start.

    In training a caption never retrieves itself, a caption of its group, or one of the same words (cosine above
    0.99999): it would read the answer off. Gradients do not go through the retrieval.

    The memory is that of :class:`TextMemoryProjection`, swapped likewise for a target domain's.

    Args:
        embed_dim (int): width of the features.
        k (int): captions retrieved. Defaults to 9: IFCap's public code, for COCO (7 for Flickr30k).
        heads (int): of the attention. Defaults to 8: assumed.
        noise_variance (float): of the query's noise in phase ``'train'``, in each dimension. Defaults to 0.04:
            IFCap's public code.
        query (str): what is looked for in phase ``'train'``: ``'text'``, the caption's feature, or ``'feats'``, the
            feature that comes in, which a method with pseudo images has; the noise is added to either. Defaults to
            ``'text'``.
        memory (str, optional): see :class:`TextMemoryProjection`, as ``split`` and ``block_size``. Defaults to
            ``None``.
        split (str, optional): Defaults to ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): Defaults to 8192.

    Shape:
        ``feats`` (B, D) → (B, D), L2-normalised.

    Raises:
        ValueError: if an option is out of range; in use, if a batch lacks ``text_feats`` or ``memory_rows`` in
            training, or fewer than ``k`` captions may be retrieved.
        RuntimeError: in use, if there is no memory.
    """

    memory_groups: Tensor | None
    _OF_MEMORY = (*TextMemoryProjection._OF_MEMORY, "memory_groups")

    def __init__(
        self,
        embed_dim: int,
        k: int = 9,
        heads: int = 8,
        noise_variance: float = 0.04,
        query: str = "text",
        memory: str | None = None,
        split: str | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: int = 8192,
    ) -> None:
        # Nothing is mixed by a temperature here.
        super().__init__(memory, 1.0, True, split, phases, sources, block_size)
        if k < 1:
            raise ValueError(f"RetrievalFusion: 'k' must be at least 1, got {k}.")
        if heads < 1 or embed_dim < 1 or embed_dim % heads:
            raise ValueError(f"RetrievalFusion: 'embed_dim' {embed_dim} must be a multiple of 'heads' {heads}.")
        if not noise_variance >= 0:
            raise ValueError(f"RetrievalFusion: 'noise_variance' must not be negative, got {noise_variance}.")
        if query not in _QUERIES:
            raise ValueError(f"RetrievalFusion: unknown 'query' {query!r}; choose from {list(_QUERIES)}.")
        self.k = k
        self.noise_variance = float(noise_variance)
        self.query = query
        self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.register_buffer("memory_groups", None, persistent=False)

    def load_memory(self) -> None:
        """As :class:`TextMemoryProjection`'s, and the captions' groups; a caption without one is alone in its own."""
        if self.memory is not None:
            return
        super().load_memory()
        from synthcap_mm.store import Store

        table = Store.open(self.memory_path).captions
        groups = table.strings("group")
        named = [groups[row] for row in self.memory_rows.tolist()]
        numbers = np.array([group_id(group) if group else -1 for group in named], dtype=np.int64)
        with torch.inference_mode(False):
            self.memory_groups = torch.from_numpy(numbers).to(self.memory.device)

    def set_memory(self, *args: Any, **options: Any) -> None:
        """As :class:`TextMemoryProjection`'s; the groups of captions that are set are not known."""
        super().set_memory(*args, **options)
        self.memory_groups = None

    @torch.no_grad()
    def retrieve(
        self,
        query: Tensor,
        own_rows: Tensor | None = None,
        groups: Tensor | None = None,
        text_feats: Tensor | None = None,
    ) -> Tensor:
        """The most similar captions, without those that must not be seen.

        Args:
            query (Tensor): ``(B, D)``, L2-normalised.
            own_rows (Tensor, optional): ``(B,)`` long, a row *of the memory* that is left out, or -1. Defaults to
                ``None``.
            groups (Tensor, optional): ``(B,)`` long, groups that are left out; -1 is none. Defaults to ``None``.
            text_feats (Tensor, optional): ``(B, D)``, L2-normalised; captions of the same words are left out.
                Defaults to ``None``.

        Returns:
            Tensor: ``(B, k)`` long, rows of the memory, most similar first.

        Raises:
            ValueError: if fewer than ``k`` captions are left, or features are not finite.
            RuntimeError: if there is no memory.
        """
        self.load_memory()
        with torch.amp.autocast(query.device.type, enabled=False):
            query = query.float()
            check_finite(type(self).__name__, query)
            words = None if text_feats is None else F.normalize(text_feats.float(), dim=1)
            best = BestRows(query, self.k)
            for similarity, block, start in block_logits(query, self.memory, own_rows, self.block_size):
                if groups is not None and self.memory_groups is not None:
                    others = self.memory_groups[start : start + len(block)]
                    similarity.masked_fill_((groups[:, None] == others) & (groups[:, None] >= 0), -torch.inf)
                if words is not None:
                    # A store's features are float16: their norms are off by more than the bound leaves.
                    same = words @ block.T > SAME_CAPTION * block.norm(dim=1)
                    similarity.masked_fill_(same, -torch.inf)
                best.add(similarity, start)
        if best.values.shape[1] < self.k or bool((best.values[:, -1] == -torch.inf).any()):
            raise ValueError(
                f"RetrievalFusion: fewer than k={self.k} captions of the memory's {len(self.memory)} may be "
                "retrieved for some samples (own ones, their groups and the same words are left out): lower k, or give "
                "more captions."
            )
        return best.rows

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Retrieve, attend, add."""
        if phase == "train":
            self.load_memory()
            text = self._need_text_feats(batch)
            query = text if self.query == "text" else batch.feats
            if self.noise_variance:
                query = F.normalize(query + torch.randn_like(query) * math.sqrt(self.noise_variance), dim=-1)
            rows = self.retrieve(query, self._own_rows(batch), batch.group_ids, text)
        else:
            rows = self.retrieve(batch.feats)
        retrieved = self.memory[rows].to(self.attention.in_proj_weight.dtype)
        feats = batch.feats.to(retrieved.dtype)
        fused, _ = self.attention(feats[:, None], retrieved, retrieved, need_weights=False)
        return batch.replace(feats=F.normalize(feats + fused[:, 0], dim=-1)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"k={self.k}, noise_variance={self.noise_variance}, query={self.query!r}, memory={self.memory_path!r}, "
            f"phases={self.phases}, sources={self.sources}"
        )
