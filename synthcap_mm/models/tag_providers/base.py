"""The contract of a tag provider: pictures in, named objects out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from synthcap_mm.options import Count, Part
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

    Attributes:
        not_in_recipe (tuple[str, ...]): arguments of the constructor that do not decide the tags, such as batch sizes
            and devices.
        recipe_version (int): raised when the class gives other tags for the same arguments.
    """

    not_in_recipe: tuple[str, ...] = ()
    recipe_version: int = 1

    def __init__(self, max_tags: Count = 20, min_score: Part = 0.05) -> None:
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

    def to(self, device: str | torch.device) -> BaseTagProvider:
        """Moves the provider's model; the base class has none."""
        return self
