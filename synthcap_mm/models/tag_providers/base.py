"""The contract of a tag provider: pictures in, named objects out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from synthcap_mm.structures import Tag

if TYPE_CHECKING:
    from PIL.Image import Image


class BaseTagProvider(ABC):
    """Finds the objects of a picture by looking at its pixels.

    A store keeps what a provider returns; which tags a captioner is told, how many
    and in which order, is decided when they are read.

    Args:
        max_tags (int): tags kept of a picture, those with the highest scores.
            Defaults to 20 (assumed: far more than a prompt takes).
        min_score (float): tags are kept above this score. Defaults to 0.05
            (mmdet's usual floor of a detection; assumed).

    Raises:
        ValueError: if ``max_tags`` is below 1 or ``min_score`` not in [0, 1).
    """

    def __init__(self, max_tags: int = 20, min_score: float = 0.05) -> None:
        if max_tags < 1:
            raise ValueError(f"max_tags={max_tags}; it must be 1 or more")
        if not 0 <= min_score < 1:
            raise ValueError(f"min_score={min_score}; it must be in [0, 1)")
        self.max_tags = max_tags
        self.min_score = min_score

    @abstractmethod
    def detect(self, images: list[Image]) -> list[list[Tag]]:
        """Tags of pictures; one picture's do not depend on the others in the list.

        Args:
            images: B pictures of any size and mode.

        Returns:
            list[list[Tag]]: for each picture its tags above ``min_score``, at most
                ``max_tags``, highest score first. :meth:`keep` makes this of any list.
        """

    def keep(self, tags: list[Tag]) -> list[Tag]:
        """Of ``tags`` those above ``min_score``, at most ``max_tags``, highest score first."""
        above = [tag for tag in tags if tag.score > self.min_score]
        return sorted(above, key=lambda tag: -tag.score)[: self.max_tags]

    def provenance(self) -> dict[str, Any]:
        """What a store's manifest says of this provider: everything that decides its tags.

        Returns:
            dict: of json types, without a path of this machine.
        """
        return {"type": type(self).__name__, "max_tags": self.max_tags, "min_score": self.min_score}

    def to(self, device: str | torch.device) -> BaseTagProvider:
        """Moves the provider's model; the base class has none."""
        return self
