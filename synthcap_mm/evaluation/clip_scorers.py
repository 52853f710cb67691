"""CLIPScore and RefCLIPScore of a set of captions."""

from __future__ import annotations

from typing import Any

import numpy as np

from synthcap_mm.evaluation.clip_score import clip_score, ref_clip_score
from synthcap_mm.evaluation.scorer import CaptionScorer, CaptionSet, Scores
from synthcap_mm.registry import CAPTION_SCORERS

_BATCH = 256


def _encode(captions: CaptionSet, texts: list[str]) -> dict[str, np.ndarray]:
    """Features of texts, each different one once."""
    distinct = sorted(set(texts))
    feats: dict[str, np.ndarray] = {}
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        feats.update(zip(batch, np.asarray(captions.encode_text(batch)), strict=True))
    return feats


@CAPTION_SCORERS.register_module("CLIPScore")
class CLIPScore(CaptionScorer):
    """``CLIPScore`` ×100: how well a caption fits its image, in the eyes of the encoder; it needs no reference.

    Figures of different encoders do not compare; papers use CLIP ViT-B/32.

    Args:
        prompt (str): put before each caption. Defaults to the paper's ``'A photo depicts '``.
        w (float): scale. Defaults to the paper's 2.5.
    """

    needs = ("image_feats", "encoder")

    def __init__(self, prompt: str = "A photo depicts ", w: float = 2.5) -> None:
        self.prompt = prompt
        self.w = w

    def describe(self) -> str:
        """See :class:`CaptionScorer`."""
        return f"{self.w:g} · max(cos, 0), captions begin with {self.prompt!r}"

    def _feats(self, captions: CaptionSet) -> tuple[Any, Any]:
        images = np.stack([np.asarray(captions.image_feats[key], dtype=np.float32) for key in captions.keys])
        texts = [self.prompt + text for text in captions.predictions.values()]
        feats = _encode(captions, texts)
        return images, np.stack([feats[text] for text in texts])

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        each = 100 * clip_score(*self._feats(captions), w=self.w)
        # A caption of nothing depicts nothing; the prompt alone would score.
        each[[not text.strip() for text in captions.predictions.values()]] = 0.0
        return Scores({"CLIPScore": float(each.mean())}, {"CLIPScore": each})


@CAPTION_SCORERS.register_module("RefCLIPScore")
class RefCLIPScore(CLIPScore):
    """``RefCLIPScore`` ×100: the harmonic mean of CLIPScore and the likeness to the nearest reference.

    Args: as :class:`CLIPScore`.
    """

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        references = [[self.prompt + text for text in captions.references[key]] for key in captions.keys]
        feats = _encode(captions, [text for texts in references for text in texts])
        nearest = [np.stack([feats[text] for text in texts]) for texts in references]
        each = 100 * ref_clip_score(*self._feats(captions), nearest, w=self.w)
        each[[not text.strip() for text in captions.predictions.values()]] = 0.0
        return Scores({"RefCLIPScore": float(each.mean())}, {"RefCLIPScore": each})
