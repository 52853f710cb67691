"""What captions of similar images agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    """How much a caption is like the captions of the memory that lie nearest to the image.

    Single captions near an image are often wrong in a detail; what many of them say is mostly right (the consensus
    caption of Devlin et al., "Exploring Nearest Neighbor Approaches for Image Captioning", 2015, for captions of all
    kinds). The likeness is CIDEr-D's, over the tokens of the captioner's own tokenizer, so it needs no rule for words
    of a language. Nothing is trained.

    Args:
        k (int): retrieved captions, at most as many as the memory has. Defaults to 60: chosen on held-out captions
            (docs/inference.md).
        temperature (float): a retrieved caption votes with softmax(cosine / temperature). It belongs to the encoder.
            Defaults to 0.01, CLIP's own.
        weight (float): see :class:`RankingScore`. Defaults to 1.
    """

    exportable = data("k", "temperature", "weight")

    def __init__(self, k: Count = 60, temperature: Positive = 0.01, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.retrieves = k
        self.temperature = temperature
        self._counted: tuple[CaptionMemory, NgramSimilarity] | None = None

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """See :meth:`RankingScore.score`."""
        ngrams = self._ngrams(candidates, memory)
        retrieved = [own[: self.retrieves] for own in candidates.retrieved]
        every = list(
            dict.fromkeys(caption for both in (candidates.captions, retrieved) for own in both for caption in own)
        )
        vectors = dict(zip(every, map(ngrams.vectors, candidates.tokenize(every))))
        votes = (candidates.similarities[:, : self.retrieves].float() / self.temperature).softmax(dim=1).tolist()
        rows = [
            [_agreement(caption, voters, weights, vectors) for caption in own]
            for own, voters, weights in zip(candidates.captions, retrieved, votes)
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
    """The weighted mean of the likeness to the voters; a retrieved caption has no vote for itself."""
    own = vectors[caption]
    itself = voters.index(caption) if caption in voters else None
    return sum(
        weight * NgramSimilarity.similarity(own, vectors[voter])
        for place, (voter, weight) in enumerate(zip(voters, weights))
        if place != itself
    )
