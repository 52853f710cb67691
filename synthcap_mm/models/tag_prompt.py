"""From stored detections to the hard prompt in front of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from synthcap_mm.options import Chance, Range, That, check_when_built
from synthcap_mm.structures import Tag

Template = Annotated[
    str,
    That(
        "a text of at most 500 characters with {tags} in it once",
        lambda text: str(text).count("{tags}") == 1 and len(text) <= 500,
    ),
]
#: Most characters of a tag's name in a prompt.
_LONGEST_NAME = 100


@check_when_built
class TagPrompt:
    """Chooses tags and words them.

    ViECap's public code gives the template and the masking of 40 %. SynTIC's own values are not known: all are
    assumed. (The same authors' SaCap has no detector and no template: the 3 phrases of a list that CLIP finds nearest.)

    Args:
        template: with ``{tags}`` in it once, which the tags replace; nothing else in it means anything. At most 500
            characters. Default ``'There are {tags} in the image.'``.
        max_tags: most tags in a prompt, at most 1000. Default 4.
        min_score: least detection score. Default 0.3.
        order: ``'score_area'`` (score × area), ``'score'`` or ``'area'``. Default ``'score_area'``.
        drop: chance of leaving each tag out in training. Default 0.2.
        drop_all: chance of leaving out the whole prompt in training, so that the
            decoder survives a detector that finds nothing. Default 0.1.

    Raises:
        UserError: for a template without ``{tags}``, with several, or too long, or an option out of range.
    """

    _ORDERS = {
        "score_area": lambda tag: tag.score * tag.area,
        "score": lambda tag: tag.score,
        "area": lambda tag: tag.area,
    }

    def __init__(
        self,
        template: Template = "There are {tags} in the image.",
        max_tags: Annotated[int, Range("[1, 1000]")] = 4,
        min_score: float = 0.3,
        order: Literal["score_area", "score", "area"] = "score_area",
        drop: Chance = 0.2,
        drop_all: Chance = 0.1,
    ) -> None:
        self.template = template
        self.max_tags = max_tags
        self.min_score = min_score
        self.order = order
        self.drop = drop
        self.drop_all = drop_all

    def choose(self, tags: Sequence[Tag]) -> list[str]:
        """Names of the tags that count, distinct, best first."""
        ranked = sorted((t for t in tags if t.score >= self.min_score), key=self._ORDERS[self.order], reverse=True)
        return list(dict.fromkeys(tag.name for tag in ranked))[: self.max_tags]

    def thin(self, names: Sequence[str], chances: Sequence[float]) -> list[str]:
        """The names that survive training's random drop.

        Args:
            names: chosen names.
            chances: ``1 + max_tags`` uniform numbers in [0, 1).
        """
        if chances[0] < self.drop_all:
            return []
        return [n for n, c in zip(names, chances[1:]) if c >= self.drop]

    def word(self, names: Sequence[str]) -> str:
        """The prompt, with at most 100 characters of each name; empty without names."""
        return self.template.replace("{tags}", ", ".join(name[:_LONGEST_NAME] for name in names)) if names else ""
