"""The contract of a part of the captioner that works with captions remembered."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from synthcap_mm.errors import UserError

if TYPE_CHECKING:
    import torch

    from synthcap_mm.models.memory import CaptionMemory


class RemembersCaptions:
    """A part to which the captioner binds a memory before it first acts: a neck, or the ranker.

    Args:
        memory: path of another store whose captions are the memory. Default ``None``: the captioner's store.
        split: split of the store's captions that makes the memory; ``None`` takes all. Default ``'train'``.

    Attributes:
        memory: what is bound.
        memory_store: see ``memory``.
        split: see above.
        exclude_self: whether a training caption's own row is hidden from it. The memory must then be of the store that
            is trained on, since rows of another one mean other captions.
    """

    exclude_self: bool = False

    def __init__(self, memory: str | None = None, split: str | None = "train") -> None:
        self.memory_store = None if memory is None else os.fspath(memory)
        self.split = split
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
