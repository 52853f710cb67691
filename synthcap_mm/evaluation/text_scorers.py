"""What the captions are like by themselves: their length, and how they differ from each other."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
from synthcap_mm.registry import CAPTION_SCORERS


def _words(captions: CaptionSet) -> list[list[str]]:
    return [captions.hypotheses[key][0].split() for key in captions.keys]


@CAPTION_SCORERS.register_module("length")
class Length(CaptionScorer):
    """``length``: mean words (or characters: ``tokenize='char'``) of a caption, without punctuation."""

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        lengths = [float(len(words)) for words in _words(captions)]
        return Scores({"length": sum(lengths) / len(lengths)}, {"length": lengths})


@CAPTION_SCORERS.register_module("distinct")
class Distinct(CaptionScorer):
    """``distinct-1`` and ``distinct-2`` ×100: different n-grams of all captions together, over all their n-grams.

    As in Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
    Models", NAACL 2016. It falls with the number of captions: compare on the same images.
    """

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        words = _words(captions)
        single = Counter(word for row in words for word in row)
        double = Counter(pair for row in words for pair in pairwise(row))
        return Scores(
            {f"distinct-{n}": 100 * len(c) / max(1, c.total()) for n, c in ((1, single), (2, double))},
            {},
        )

    def describe(self) -> str:
        """See :class:`CaptionScorer`."""
        return "different n-grams of all captions over all their n-grams (Li et al. 2016)"


@CAPTION_SCORERS.register_module("vocabulary")
class Vocabulary(CaptionScorer):
    """``vocabulary``: how many different words the captions have."""

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        return Scores({"vocabulary": float(len({word for row in _words(captions) for word in row}))}, {})
