"""What captions of similar images agree on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.options import Count, Positive
from synthcap_mm.registry import MODELS

from .candidates import Candidates
from .ngrams import NgramSimilarity, Vectors
from .scores import RankingScore

#: Captions in which n-grams are counted; more of a large memory would only take longer.
_COUNTED = 50_000


@MODELS.register_module()
class ConsensusScore(RankingScore):
    """How much a caption is like others of the same image: those of the memory nearest to it, or those of the beams.

    Single captions near an image, or of a decoder, are often wrong in a detail; what many of them say is mostly right
    (consensus captions: Devlin et al., "Exploring Nearest Neighbor Approaches for Image Captioning", 2015; among a
    decoder's own: minimum Bayes risk). The likeness is CIDEr-D's, over the tokens of the captioner's own tokenizer, so
    it needs no rule for words of a language. Nothing is trained.

    Args:
        voters (str): ``'memory'``: captions of the memory, each with the weight softmax(cosine with the image /
            temperature); ``'beams'``: what the decoder wrote, with softmax(log-probability of a token /
            temperature). Defaults to ``'memory'``.
        k (int): most voters. Defaults to 60: chosen on held-out captions (research/logs/ranking.md).
        temperature (float): of the memory's votes it belongs to the encoder. Defaults to 0.01, CLIP's own.
        weight (float): see :class:`RankingScore`. Defaults to 1.
    """

    exportable = data("voters", "k", "temperature", "weight")

    def __init__(
        self,
        voters: Literal["memory", "beams"] = "memory",
        k: Count = 60,
        temperature: Positive = 0.01,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.voters, self.k, self.temperature = voters, k, temperature
        # Where the beams vote, the memory still says which n-grams are rare.
        self.retrieves = k if voters == "memory" else 1
        self._counted: tuple[CaptionMemory, NgramSimilarity] | None = None

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """See :meth:`RankingScore.score`."""
        ngrams = self._ngrams(candidates, memory)
        if self.voters == "memory":
            voters, confidence = candidates.retrieved, candidates.similarities
        else:
            voters, confidence = candidates.captions, candidates.logprobs / candidates.lengths
            confidence = confidence[:, : candidates.written]
        confidence = confidence[:, : self.k].float()
        voters = [own[: confidence.shape[1]] for own in voters]
        every = list(dict.fromkeys(itertools.chain.from_iterable([*candidates.captions, *voters])))
        vectors = dict(zip(every, map(ngrams.vectors, candidates.tokenize(every))))
        rows = [
            [_agreement(caption, names, weights, vectors) for caption in own]
            for own, names, weights in zip(
                candidates.captions, voters, (confidence / self.temperature).softmax(dim=1).tolist()
            )
        ]
        return torch.tensor(rows, device=candidates.logprobs.device)

    def _ngrams(self, candidates: Candidates, memory: CaptionMemory) -> NgramSimilarity:
        """How rare n-grams are in a memory, counted once."""
        if self._counted is None or self._counted[0] is not memory:
            step = -(-len(memory) // _COUNTED)
            texts = [memory.text(place) for place in range(0, len(memory), step)]
            self._counted = memory, NgramSimilarity(candidates.tokenize(texts))
        return self._counted[1]


def _agreement(caption: str, voters: Sequence[str], weights: Sequence[float], vectors: Mapping[str, Vectors]) -> float:
    """The weighted mean of the likeness to the voters; a caption has no vote for itself."""
    own = vectors[caption]
    itself = voters.index(caption) if caption in voters else None
    return sum(
        weight * NgramSimilarity.similarity(own, vectors[voter])
        for place, (voter, weight) in enumerate(zip(voters, weights))
        if place != itself
    )
