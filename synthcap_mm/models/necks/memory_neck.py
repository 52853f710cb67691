"""The contract of a neck that works with captions remembered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES, BaseNeck, check_finite
from .memory_attention import top_memory

if TYPE_CHECKING:
    from synthcap_mm.models.memory import CaptionMemory


class MemoryNeck(BaseNeck):
    """A neck to which the captioner binds a memory before it first acts.

    Args:
        memory (str, optional): path of another store whose captions are the memory. Defaults to ``None``: the
            captioner's store.
        split (str, optional): split of the store's captions that makes the memory; ``None`` takes all. Defaults to
            ``'train'``.
        phases (Sequence[str]): see :class:`BaseNeck`. Defaults to both.
        sources (Sequence[str]): see :class:`BaseNeck`. Defaults to all.
        block_size (int): rows of the memory at a time; decides memory and speed, not the result. Defaults to 8192.

    Attributes:
        memory (CaptionMemory | None): what is bound.
        temperature (float): of :meth:`attend`.
        encoder (str | None): name of the encoder whose features are compared with the memory's; ``None``: the
            captioner's own.
        exclude_self (bool): whether a training caption's own row is hidden from it. The memory must then be of the
            store that is trained on, since rows of another one mean other captions.
    """

    not_in_recipe = ("block_size",)
    temperature: float = 1.0
    exclude_self: bool = False
    encoder: str | None = None

    def __init__(
        self,
        memory: str | None = None,
        split: str | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: int = 8192,
    ) -> None:
        super().__init__(phases, sources)
        self.memory_store = None if memory is None else os.fspath(memory)
        self.split = split
        self.block_size = block_size
        self.memory: CaptionMemory | None = None

    def bind(self, memory: CaptionMemory | None) -> None:
        """Work with this memory from now on; with ``None``, with the captioner's."""
        self.memory = memory

    def bound(self, device: torch.device) -> CaptionMemory:
        """The memory, on a device.

        Raises:
            UserError: if there is none.
        """
        if self.memory is None:
            raise UserError(
                f"{type(self).__name__} has no memory: name a store in the captioner's config (model.store) or in the "
                "neck's (memory='data/stores/...')"
            )
        return self.memory.to(device)

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
