"""How much alike two sentences are, as CIDEr counts it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

#: Longest n-grams, and the width of the penalty for another length: CIDEr-D's.
_LONGEST, _SIGMA = 4, 6.0

Vectors = tuple[list[tuple[dict[tuple, float], float]], int]


class NgramSimilarity:
    """Cosines of n-grams weighted by how rare they are, as in CIDEr-D (Vedantam et al., "CIDEr", CVPR 2015).

    Tokens may be anything that can be compared, so that no rule for words of a language is needed.

    Args:
        documents: token sequences in which n-grams are counted; an n-gram of all of them weighs nothing.
    """

    def __init__(self, documents: Iterable[Sequence[Hashable]]) -> None:
        self._counts: Counter = Counter()
        count = 0
        for tokens in documents:
            count += 1
            for grams in _ngrams(tokens):
                self._counts.update(grams.keys())
        self._log_count = math.log(max(2, count))

    def vectors(self, tokens: Sequence[Hashable]) -> Vectors:
        """What :meth:`similarity` compares: for each length of n-grams their weights and the norm; number of tokens."""
        return [self._weighed(grams) for grams in _ngrams(tokens)], len(tokens)

    def _weighed(self, grams: Counter) -> tuple[dict[tuple, float], float]:
        weights = {gram: n * (self._log_count - math.log(max(1, self._counts[gram]))) for gram, n in grams.items()}
        return weights, math.sqrt(sum(value * value for value in weights.values())) or 1.0

    @staticmethod
    def similarity(caption: Vectors, reference: Vectors) -> float:
        """In [0, 1]; 1 for equal sentences of four tokens or more."""
        (ours, length), (theirs, other_length) = caption, reference
        # CIDEr-D clips what a caption repeats.
        cosines = sum(
            sum(min(value, others[gram]) * others[gram] for gram, value in own.items() if gram in others)
            / (norm * size)
            for (own, norm), (others, size) in zip(ours, theirs)
        )
        return cosines / _LONGEST * math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2))


def _ngrams(tokens: Sequence[Hashable]) -> list[Counter]:
    return [
        Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
        for n in range(1, _LONGEST + 1)
    ]
