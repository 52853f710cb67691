"""BLEU, ROUGE-L and CIDEr, as the COCO evaluation defines them; computed by pycocoevalcap on our tokens."""

from __future__ import annotations

from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
from synthcap_mm.registry import CAPTION_SCORERS
from synthcap_mm.requirements import require

#: Of fewer images than this, CIDEr says nothing; chosen by hand.
FEW_IMAGES = 20


def _percent(column: object) -> list[float]:
    return [100 * float(value) for value in column]


@CAPTION_SCORERS.register_module("BLEU")
class Bleu(CaptionScorer):
    """``BLEU-1`` to ``BLEU-4`` ×100: of the whole set, which is no mean of the images'."""

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        scorer = require("pycocoevalcap.bleu.bleu", purpose="BLEU").Bleu(4)
        scores, each = scorer.compute_score(captions.truth, captions.hypotheses, verbose=0)
        names = [f"BLEU-{n}" for n in range(1, 5)]
        return Scores(dict(zip(names, _percent(scores))), dict(zip(names, map(_percent, each))))


@CAPTION_SCORERS.register_module("ROUGE_L")
class RougeL(CaptionScorer):
    """``ROUGE_L`` ×100."""

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        scorer = require("pycocoevalcap.rouge.rouge", purpose="ROUGE-L").Rouge()
        score, each = scorer.compute_score(captions.truth, captions.hypotheses)
        return Scores({"ROUGE_L": 100 * float(score)}, {"ROUGE_L": _percent(each)})


@CAPTION_SCORERS.register_module("CIDEr")
class Cider(CaptionScorer):
    """``CIDEr`` ×100 (CIDEr-D).

    It weighs n-grams by how many of *these* images have them in their references, so a score belongs to a set of
    images; for a single image it is 0, and of fewer than :data:`FEW_IMAGES` a warning says that it is unreliable.
    Images with the same references (held-out captions of one group) count once.
    """

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        scorer = require("pycocoevalcap.cider.cider", purpose="CIDEr").Cider()
        score, each = scorer.compute_score(captions.truth, captions.hypotheses)
        images = len(set(map(tuple, captions.truth.values())))
        few = f"of {images} image(s), fewer than {FEW_IMAGES}, it is unreliable; of one it is always 0"
        return Scores({"CIDEr": 100 * float(score)}, {"CIDEr": _percent(each)}, few if images < FEW_IMAGES else None)
