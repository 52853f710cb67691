"""Pseudo pairs without a text-to-image model: each caption gets the most similar unlabelled image."""

from __future__ import annotations

from typing import Any

import torch

from synthcap_mm.models.generators.base import BaseRetriever, check_seeds
from synthcap_mm.options import Count, Data, EncoderName
from synthcap_mm.registry import MODELS
from synthcap_mm.store.topk import blockwise_topk


@MODELS.register_module()
class RetrievalGenerator(BaseRetriever):
    """Answers a caption with the images of a pool whose features are most similar to the caption's.

    The pool's images need no captions, and must not be those of the captions (a
    pair that was found by its own label is no pseudo pair). Who makes the store
    encodes the pool, each image once, and hands its features to :meth:`set_pool`.
    The search is exact, goes block by block, and is deterministic: seeds do not matter.

    Args:
        pool (dict): config of the source of photos, of the DATASETS registry, e.g.
            ``dict(type='PhotoFolder', root='photos/')``. Kept as it is, in ``self.pool``.
        k (int, optional): images for each caption where :meth:`retrieve` is not told. Who makes a
            store tells it (``synthesis.images_per_caption``), and refuses another number here.
            Defaults to None: 1 (assumed: as one drawing a caption).
        block (int): rows of the pool scored at a time. Defaults to 8192.
        encoder (str, optional): name of the encoder of ``synthesis.other_encoders`` whose features are compared; the
            pairs' scores stay the store's own encoder's. Defaults to None: the store's own.
        heldout_encoder (str, optional): as ``encoder``, for held-out captions: their photos are then not the choice of
            the encoder by which training's were chosen. Defaults to None: ``encoder``.
    """

    not_in_recipe = ("block",)

    def __init__(
        self,
        pool: Data,
        k: Count | None = None,
        block: Count = 8192,
        encoder: EncoderName | None = None,
        heldout_encoder: EncoderName | None = None,
    ) -> None:
        self.pool = pool
        self.k = k
        self.encoder, self.heldout_encoder = encoder, heldout_encoder
        self.block = block
        self._features: Any = None
        self._device = torch.device("cpu")

    def set_pool(self, features: Any) -> None:
        """Names the pool's features.

        Args:
            features: ``(N, D)`` array, memory map or tensor of any float type,
                L2-normalised; row i is image i's. Read block by block, never copied whole.

        Raises:
            ValueError: if ``features`` has fewer rows than ``k``.
        """
        if features.shape[0] < (self.k or 1):
            raise ValueError(f"the pool has {features.shape[0]} images, but each caption asks for k={self.k or 1}")
        self._features = features

    def retrieve(
        self, text_feats: torch.Tensor, captions: list[str], seeds: list[int], k: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``k`` most similar images of each caption, best first; equals come lower row first.

        Args:
            text_feats: ``(B, D)`` features of the captions, L2-normalised.
            captions: B captions.
            seeds: B seeds, which change nothing.
            k: images for each caption. Defaults to None, the generator's own.

        Returns:
            tuple: ``rows (B, k)`` int64 and ``scores (B, k)`` float32 (cosines), on the CPU.

        Raises:
            RuntimeError: before :meth:`set_pool`.
            ValueError: if numbers or widths do not fit, ``k`` exceeds the pool, or
                a feature is not finite.
        """
        if self._features is None:
            raise RuntimeError(
                "RetrievalGenerator has no pool yet; encode its photos and call set_pool(features) first"
            )
        check_seeds(captions, seeds)
        if len(text_feats) != len(captions):
            raise ValueError(f"{len(captions)} captions, but features of {len(text_feats)}")
        scores, rows = blockwise_topk(text_feats.to(self._device), self._features, k or self.k or 1, self.block)
        return rows.cpu(), scores.cpu()

    def to(self, device: str | torch.device) -> RetrievalGenerator:
        """Names the device that searches; the pool's blocks go there one by one."""
        self._device = torch.device(device)
        return self
