"""The contract of a generator: captions in, pictures out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image


class BaseGenerator(ABC):
    """Makes a picture for each caption.

    Attributes:
        retrieves (bool): whether the generator, instead of drawing, answers with
            rows of an image pool (:class:`BaseRetriever`). False here.
        not_in_recipe (tuple[str, ...]): arguments of the constructor that do not decide the pictures, such as batch
            sizes and devices.
        recipe_version (int): raised when the class draws other pictures for the same arguments.
    """

    retrieves: bool = False
    not_in_recipe: tuple[str, ...] = ()
    recipe_version: int = 1

    @abstractmethod
    def generate(self, captions: list[str], seeds: list[int]) -> list[Image]:
        """One picture for each caption.

        Args:
            captions: B captions.
            seeds: B seeds. The same caption and seed give the same picture,
                whatever else is in the list, up to the library's tolerance for
                batches of different sizes.

        Returns:
            list[PIL.Image.Image]: B pictures in RGB.
        """

    def to(self, device: str | torch.device) -> BaseGenerator:
        """Moves the generator's model; the base class has none."""
        return self


class BaseRetriever(BaseGenerator):
    """A generator that answers a caption with pictures of a pool, each of which is encoded and looked at once.

    Its options ``encoder`` and ``heldout_encoder`` may name encoders of ``synthesis.other_encoders``, whose features it
    then gets (see :class:`RetrievalGenerator`).

    Attributes:
        retrieves (bool): True.
    """

    retrieves: bool = True

    @abstractmethod
    def set_pool(self, features: Any) -> None:
        """Names the pool's features.

        Args:
            features: ``(N, D)`` array, memory map or tensor; row i is picture i's.
        """

    @abstractmethod
    def retrieve(
        self, text_feats: torch.Tensor, captions: list[Any], seeds: list[int], k: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the pool for each caption, best first.

        Args:
            text_feats: ``(B, D)`` features of the captions, L2-normalised.
            captions: B captions, each with ``id``, ``text`` and ``group``.
            seeds: B seeds, for retrievers that choose at random.
            k: pictures wanted for each caption; the generator's own number by default.

        Returns:
            tuple: ``rows (B, k)`` int64 and ``scores (B, k)`` float32, on the CPU.
        """

    def generate(self, captions: list[str], seeds: list[int]) -> list[Image]:
        """Not what a retriever does.

        Raises:
            TypeError: always; ask :meth:`retrieve`.
        """
        raise TypeError(f"{type(self).__name__} draws nothing: it retrieves rows of its pool, so call retrieve()")


def check_seeds(captions: Sequence[str], seeds: Sequence[int]) -> None:
    """Raises ValueError unless there is one seed for each caption."""
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions, but {len(seeds)} seeds; give one seed for each caption")
