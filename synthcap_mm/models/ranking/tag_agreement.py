"""How far a caption names the tags of its image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.tag_providers.caption_entities import plural
from synthcap_mm.registry import MODELS

from .candidates import Candidates
from .scores import RankingScore

_WORD = re.compile(r"[^\W_]+")


def tag_agreement(caption: str, tags: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None) -> float:
    """The share of an image's tags that a caption names.

    A tag of several words counts by those that stand together, with at most one other word among them: *a man in a
    white shirt* names ``'man in white'``, and *a red dog and a blue chair* names half of ``'red chair'``. A caption
    that names one object twice, and another not at all, scores less than one that names both.

    Args:
        caption: a sentence.
        tags: names in the singular, as the prompt has them. Case does not matter, and a word may be in the plural.
        aliases: other names of a tag, of which the best counts: ``{'person': ['man', 'woman']}``. Default ``None``.

    Returns:
        In [0, 1]; 0 without tags.
    """
    words = _WORD.findall(caption.lower())
    named = [max(_share(name, words) for name in (tag, *(aliases or {}).get(tag, ()))) for tag in tags]
    return sum(named) / max(1, len(tags))


def _share(name: str, words: Sequence[str]) -> float:
    """The share of a name's words that stand together in a caption."""
    forms = [{word, plural(word)} for word in _WORD.findall(name.lower())]
    window = len(forms) + 1
    found = [sum(bool(form & {*words[i : i + window]}) for form in forms) for i in range(len(words))]
    return max(found, default=0) / max(1, len(forms))


@MODELS.register_module()
class TagScore(RankingScore):
    """The share of an image's tags that a caption names (:func:`tag_agreement`); the detector's word.

    Beams often name one object twice: a word said before is likelier than one of many others.

    Args:
        weight (float): see :class:`RankingScore`. Defaults to 1.
    """

    exportable = data("weight")

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """See :meth:`RankingScore.score`."""
        rows = [[tag_agreement(each, tags) for each in own] for own, tags in zip(candidates.captions, candidates.tags)]
        return torch.tensor(rows, device=candidates.logprobs.device)
