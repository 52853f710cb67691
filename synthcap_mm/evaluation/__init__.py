"""Metrics, and what is needed to judge and look at captions."""

from synthcap_mm.evaluation.bootstrap import paired_bootstrap
from synthcap_mm.evaluation.caption_metric import CaptionMetric
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.clip_score import clip_score, ref_clip_score
from synthcap_mm.evaluation.clip_scorers import CLIPScore, RefCLIPScore
from synthcap_mm.evaluation.gallery import save_gallery
from synthcap_mm.evaluation.java_scorers import Meteor, Spice
from synthcap_mm.evaluation.nearest_caption import nearest_captions
from synthcap_mm.evaluation.ngram_scorers import Bleu, Cider, RougeL
from synthcap_mm.evaluation.object_scorers import CHAIR, ObjectHallucination
from synthcap_mm.evaluation.scored_captions import ScoredCaptions, score_captions, score_set
from synthcap_mm.evaluation.scorer import DEFAULT_METRICS, CaptionScorer, Scores, build_scorers
from synthcap_mm.evaluation.text_scorers import Distinct, Length, Vocabulary
from synthcap_mm.evaluation.tokenizer import ptb_tokenize

__all__ = [
    "CHAIR",
    "DEFAULT_METRICS",
    "Bleu",
    "CLIPScore",
    "CaptionMetric",
    "CaptionScorer",
    "CaptionSet",
    "Cider",
    "Distinct",
    "Length",
    "Meteor",
    "ObjectHallucination",
    "RefCLIPScore",
    "RougeL",
    "ScoredCaptions",
    "Scores",
    "Spice",
    "Vocabulary",
    "build_scorers",
    "clip_score",
    "nearest_captions",
    "paired_bootstrap",
    "ptb_tokenize",
    "ref_clip_score",
    "save_gallery",
    "score_captions",
    "score_set",
]
