"""CLIPScore and RefCLIPScore of a set of captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.clip_score import clip_score, ref_clip_score
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
from synthcap_mm.options import Positive
from synthcap_mm.registry import CAPTION_SCORERS, MODELS

_BATCH = 256


def text_encoder(config: Mapping[str, Any], store_encoder: Mapping[str, Any]) -> Callable[[list[str]], np.ndarray]:
    """The text side of an encoder, after comparing it with the one that made a store's image features.

    Args:
        config: of a backbone.
        store_encoder: the store's fingerprint.

    Returns:
        Callable: texts → ``(N, D)`` float32; a text that was encoded before is not encoded again.

    Raises:
        UserError: if it is another encoder; both are named.
    """
    import torch

    from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder

    backbone = MODELS.build(dict(config)).to("cuda" if torch.cuda.is_available() else "cpu")
    own = backbone.fingerprint()
    if not same_encoder(own, store_encoder):
        raise UserError(
            "CLIPScore: the encoder for the text differs from the one that made the images' features: "
            f"{describe_mismatch(own, store_encoder)}. Name the encoder of the store, or encode the photos again"
        )
    known: dict[str, np.ndarray] = {}

    def encode(texts: list[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            with torch.no_grad():
                known.update(zip(new, backbone.encode_text(new).float().cpu().numpy(), strict=True))
        return np.stack([known[text] for text in texts])

    return encode


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

    def __init__(self, prompt: str = "A photo depicts ", w: Positive = 2.5) -> None:
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
        # An empty caption scores 0; otherwise the prompt alone would get a score.
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
