"""Captions like the one that is wanted, fused into the feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.exportable import data
from synthcap_mm.options import Count, EncoderName, Name, NotNegative, Size
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES, check_finite
from .memory_attention import BestRows, block_logits
from .memory_neck import MemoryNeck
from .pseudo_feature_optimizer import SAME_CAPTION


@MODELS.register_module()
class RetrievalFusion(MemoryNeck):
    r"""Retrieves captions from the memory and adds what attention finds in them to the feature.

    After `IFCap <https://arxiv.org/abs/2409.18046>`_: in training the query is the caption's feature with Gaussian
    noise, so that what is retrieved is about as far off as what an image's feature retrieves; at inference the query
    is the image's feature. The feature attends to the :math:`k` retrieved ones by learnt multi-head attention:
    :math:`v' = \mathrm{normalise}(v + \mathrm{Attention}(v, R, R))`. The original has
    further layers behind the attention; the sum (assumed) lets the feature through from the start.

    In training a caption never retrieves itself, a caption of its group, or one of the same words (cosine above
    0.99999): it would read the answer off. Gradients do not go through the retrieval.

    Swapped for a target domain's, a memory has no groups and no rows: nothing is left out but the same words.

    Args:
        embed_dim (int): width of the features; the captioner fills in its store's.
        k (int): captions retrieved. Defaults to 5: IFCap's public code, in training and at inference.
        heads (int): of the attention. Defaults to 8: assumed.
        noise_variance (float): of the query's noise in phase ``'train'``, in each dimension. Defaults to 0.04:
            IFCap's public code.
        query (str): what is looked for in phase ``'train'``: ``'text'``, the caption's feature, or ``'feats'``, the
            feature that comes in (by ``encoder``, the image's), which a method with pseudo images has; the noise is
            added to either. Defaults to
            ``'text'``.
        encoder (str, optional): name of the encoder of ``synthesis.other_encoders`` that retrieves; what it finds is
            fused by the captioner's own features. IFCap retrieves with CLIP RN50x64. Defaults to ``None``: the
            captioner's own encoder.
        memory (str, optional): see :class:`MemoryNeck`, as ``split`` and ``block_size``. Defaults to ``None``.
        split (str, optional): Defaults to ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): Defaults to 8192.

    Shape:
        ``feats`` (B, D) → (B, D), L2-normalised.

    Raises:
        ValueError: in use, if a batch lacks ``text_feats`` or ``memory_rows`` in training, or fewer than ``k``
            captions may be retrieved.
        UserError: in use, if there is no memory.
    """

    exclude_self = True

    exportable = data("embed_dim", "k", "heads", "noise_variance", "query", "encoder", "split", "phases", "sources")

    def __init__(
        self,
        embed_dim: Size,
        k: Count = 5,
        heads: Size = 8,
        noise_variance: NotNegative = 0.04,
        query: Literal["text", "feats"] = "text",
        memory: Name | None = None,
        split: Literal["train", "heldout"] | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: Count = 8192,
        encoder: EncoderName | None = None,
    ) -> None:
        super().__init__(memory, split, phases, sources, block_size)
        self.k = k
        self.noise_variance = float(noise_variance)
        self.query = query
        self.encoder = encoder
        self.attention = nn.MultiheadAttention(embed_dim, heads, batch_first=True)

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
            query (Tensor): ``(B, D)``, L2-normalised, by ``encoder``.
            own_rows (Tensor, optional): ``(B,)`` long, a row *of the memory* that is left out, or -1. Defaults to
                ``None``.
            groups (Tensor, optional): ``(B,)`` long, groups that are left out; -1 is none. Defaults to ``None``.
            text_feats (Tensor, optional): ``(B, D)``, as ``query``; captions of the same words are left out.
                Defaults to ``None``.

        Returns:
            Tensor: ``(B, k)`` long, rows of the memory, most similar first.

        Raises:
            ValueError: if fewer than ``k`` captions are left, or features are not finite.
        """
        memory = self.bound(query.device)
        features = memory.features_of(self.encoder)
        with torch.amp.autocast(query.device.type, enabled=False):
            query = query.float()
            check_finite(type(self).__name__, query)
            words = None if text_feats is None else F.normalize(text_feats.float(), dim=1)
            best = BestRows(query, self.k)
            for similarity, block, start in block_logits(query, features, own_rows, self.block_size):
                if groups is not None and memory.groups is not None:
                    others = memory.groups[start : start + len(block)]
                    similarity.masked_fill_((groups[:, None] == others) & (groups[:, None] >= 0), -torch.inf)
                if words is not None:
                    # A store's features are float16, so their norms differ from 1 by more than the bound allows.
                    same = words @ block.T > SAME_CAPTION * block.norm(dim=1)
                    similarity.masked_fill_(same, -torch.inf)
                best.add(similarity, start)
        if best.values.shape[1] < self.k or bool((best.values[:, -1] == -torch.inf).any()):
            raise ValueError(
                f"RetrievalFusion: fewer than k={self.k} captions of the memory's {len(memory)} may be "
                "retrieved for some samples (own ones, their groups and the same words are left out): lower k, or give "
                "more captions."
            )
        return best.rows

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Retrieve, attend, add."""
        if phase == "train":
            text = self._need_text_feats(batch) if self.encoder is None else batch.text_feats_of(self.encoder)
            query = text if self.query == "text" else batch.feats_of(self.encoder)
            if self.noise_variance:
                query = F.normalize(query + torch.randn_like(query) * math.sqrt(self.noise_variance), dim=-1)
            rows = self.retrieve(query, self.own_places(batch), batch.group_ids, text)
        else:
            rows = self.retrieve(batch.feats_of(self.encoder))
        retrieved = self.bound(rows.device).features[rows].to(self.attention.in_proj_weight.dtype)
        feats = batch.feats.to(retrieved.dtype)
        fused, _ = self.attention(feats[:, None], retrieved, retrieved, need_weights=False)
        return batch.replace(feats=F.normalize(feats + fused[:, 0], dim=-1)), {}

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"k={self.k}, noise_variance={self.noise_variance}, query={self.query!r}, {super().extra_repr()}"
