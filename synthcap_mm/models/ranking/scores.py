"""What makes a caption better than others of the same image: the encoder's word, the decoder's word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.options import Name
from synthcap_mm.registry import MODELS

from .candidates import Candidates


class RankingScore:
    """The contract of a score. A subclass defines :meth:`score`, and ``exportable`` if it is to stand in an export.

    Args:
        weight (float): in the sum of all scores. Defaults to 1.

    Attributes:
        retrieves (int): captions of the memory that the score wants to see for each image. 0: none.
    """

    retrieves: int = 0

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = float(weight)

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """Score the captions of each image; only differences within an image count.

        Args:
            candidates (Candidates): B images with N captions each.
            memory (CaptionMemory, optional): the captioner's; ``None`` if nothing is retrieved.

        Returns:
            Tensor: ``(B, N)``, larger is better.
        """
        raise NotImplementedError(f"{type(self).__name__} must define score(candidates, memory)")


@MODELS.register_module()
class ImageScore(RankingScore):
    """Cosine of image and caption under the encoder, as CLIPScore has it (Hessel et al., EMNLP 2021), without a scale.

    A caption without words scores 0, though the encoder has a feature for it.

    Args:
        encoder (str, optional): name of another encoder than the captioner's own (``synthesis.other_encoders``).
            Defaults to ``None``.
        weight (float): see :class:`RankingScore`. Defaults to 1.
    """

    exportable = data("encoder", "weight")

    def __init__(self, encoder: Name | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.encoder = encoder

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """See :meth:`RankingScore.score`."""
        images = F.normalize(candidates.image_feats[self.encoder].float(), dim=-1)
        captions = F.normalize(candidates.text_feats(self.encoder).float(), dim=-1)
        cosines = torch.einsum("bd,bnd->bn", images, captions).clamp_min(0)
        empty = torch.tensor([[not caption.strip() for caption in own] for own in candidates.captions])
        return cosines.masked_fill(empty.to(cosines.device), 0.0)


@MODELS.register_module()
class LikelihoodScore(RankingScore):
    """The decoder's own order: log-probability of a caption, divided by its length to a power.

    Args:
        length_penalty (float): the power; 0 leaves the sum as it is. Defaults to 1: the mean of a token.
        weight (float): see :class:`RankingScore`. Defaults to 1.
    """

    exportable = data("length_penalty", "weight")

    def __init__(self, length_penalty: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.length_penalty = length_penalty

    def score(self, candidates: Candidates, memory: CaptionMemory | None) -> Tensor:
        """See :meth:`RankingScore.score`."""
        return candidates.logprobs / candidates.lengths**self.length_penalty
