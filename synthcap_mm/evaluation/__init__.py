"""Metrics, and what is needed to judge and look at captions."""

from synthcap_mm.evaluation.bootstrap import paired_bootstrap
from synthcap_mm.evaluation.caption_metric import KNOWN_METRICS, CaptionMetric, score_captions
from synthcap_mm.evaluation.gallery import save_gallery
from synthcap_mm.evaluation.object_errors import MiniScenesMetric, object_errors
from synthcap_mm.evaluation.tokenizer import ptb_tokenize

__all__ = [
    "KNOWN_METRICS",
    "CaptionMetric",
    "MiniScenesMetric",
    "object_errors",
    "paired_bootstrap",
    "ptb_tokenize",
    "save_gallery",
    "score_captions",
]
