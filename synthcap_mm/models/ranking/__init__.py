"""Which of several captions an image gets: candidates, scores, and the ranker that fuses them."""

from .candidates import Candidates
from .consensus_score import ConsensusScore
from .ranker import CaptionRanker
from .scores import ImageScore, LikelihoodScore, RankingScore
from .tag_agreement import TagScore

__all__ = [
    "Candidates",
    "CaptionRanker",
    "ConsensusScore",
    "ImageScore",
    "LikelihoodScore",
    "RankingScore",
    "TagScore",
]
