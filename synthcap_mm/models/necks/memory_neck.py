"""The contract of a neck that works with captions remembered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synthcap_mm.models.remembering import RemembersCaptions
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES, BaseNeck, check_finite
from .memory_attention import top_memory


class MemoryNeck(RemembersCaptions, BaseNeck):
    """A neck to which the captioner binds a memory before it first acts.

    Args:
        memory (str, optional): see :class:`RemembersCaptions`. Defaults to ``None``: the captioner's store.
        split (str, optional): see :class:`RemembersCaptions`. Defaults to ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): rows of the memory at a time; decides memory and speed, not the result. Defaults to 8192.

    Attributes:
        temperature (float): of :meth:`attend`.
        encoder (str | None): name of the encoder whose features are compared with the memory's; ``None``: the
            captioner's own.
    """

    not_in_recipe = ("block_size",)
    temperature: float = 1.0
    encoder: str | None = None

    def __init__(
        self,
        memory: str | None = None,
        split: str | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: int = 8192,
    ) -> None:
        BaseNeck.__init__(self, phases, sources)
        RemembersCaptions.__init__(self, memory, split)
        self.block_size = block_size

    def own_places(self, batch: PrefixBatch) -> Tensor | None:
        """Of each sample the place of its own caption in the memory, -1 where it is not there.

        Raises:
            ValueError: if the batch has no ``memory_rows``.
        """
        if batch.memory_rows is None:
            raise ValueError(f"{type(self).__name__}: to leave out a caption itself, the batch needs its memory_rows")
        return self.bound(batch.feats.device).places(batch.memory_rows)

    @torch.no_grad()
    def attend(self, feats: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Which captions carry most weight for features, to explain a caption.

        Args:
            feats (Tensor): ``(B, D)``, by :attr:`encoder`.
            k (int): how many captions for each, at most M.

        Returns:
            tuple[Tensor, Tensor]: weights ``(B, k)`` in [0, 1], largest first, and places in the memory ``(B, k)``.
        """
        memory = self.bound(feats.device)
        with torch.amp.autocast(feats.device.type, enabled=False):
            feats = feats.float()
            check_finite(type(self).__name__, feats)
            return top_memory(feats, memory.features_of(self.encoder), self.temperature, k, self.block_size)
