"""All metrics of a set of captions: computed, and written to a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from mmengine.logging import print_log

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.scorer import DEFAULT_METRICS, CaptionScorer, Scores, SkippedError, build_scorers
from synthcap_mm.evaluation.tokenizer import Tokenize
from synthcap_mm.files import write_json


@dataclass
class ScoredCaptions:
    """All metrics of a set.

    Attributes:
        averages: by name.
        per_image: by image key, then by name; only the metrics that an image has.
        skipped: why a metric that was asked for has no number, by the name it was asked for.
        notes: version or definition of a metric, by the name it was asked for; ``'tokenize'`` where characters count.
        warnings: why a metric says little of this set, by the name it was asked for; of a domain's,
            ``'DOMAIN/NAME'``.
        nearest: the training caption nearest to each image, where the floor was asked for.
    """

    averages: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, note: str | None, scores: Scores, keys: Sequence[str]) -> None:
        """Add what one scorer found.

        Args:
            name: that the scorer was asked for by.
            note: its description.
            scores: what it found.
            keys: of the images.
        """
        if note is not None:
            self.notes[name] = note
        if scores.warning is not None:
            self.warnings[name] = scores.warning
        self.averages |= {metric: float(value) for metric, value in scores.averages.items()}
        for metric, column in scores.per_image.items():
            for key, value in zip(keys, np.asarray(column, dtype=np.float64).tolist(), strict=True):
                if value == value:  # no NaN
                    self.per_image[key][metric] = value


@cache
def _warn_of_unspaced() -> None:
    """Say once that words are counted where there are no blanks between them."""
    print_log(
        "the references put no blanks between words, as Chinese, Japanese and Thai do: a sentence counts as one word, "
        "and BLEU, ROUGE-L and CIDEr say next to nothing. Score by characters: tokenize='char' in CaptionMetric, "
        "--tokenize char of eval-captions",
        logger="current",
        level=logging.WARNING,
    )


def score_set(captions: CaptionSet, scorers: Mapping[str, CaptionScorer]) -> ScoredCaptions:
    """Score a set by several metrics; those that cannot be computed are listed as skipped, with the reason.

    Args:
        captions: the set.
        scorers: by name, see :func:`~synthcap_mm.evaluation.scorer.build_scorers`.
    """
    found = ScoredCaptions(per_image={key: {} for key in captions.keys})
    if captions.tokenize == "char":
        found.notes["tokenize"] = "char: characters count as words"
    elif captions.unspaced:
        _warn_of_unspaced()
    for name, scorer in scorers.items():
        why = scorer.lacks(captions)
        if why is not None:
            found.skipped[name] = why
            continue
        try:
            scores = scorer.score(captions)
        except SkippedError as error:
            found.skipped[name] = str(error)
            continue
        found.add(name, scorer.describe(), scores, captions.keys)
    return found


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str | Mapping[str, Any]] = DEFAULT_METRICS,
    tokenize: Tokenize = "ptb",
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against references, by metrics that need nothing else.

    Args:
        predictions (dict[str, str]): caption by image key. A caption without
            words is allowed, and scores 0.
        references (dict[str, list[str]]): reference captions by image key; the same keys.
        metrics (list[str | dict]): see :func:`~synthcap_mm.evaluation.scorer.build_scorers`. Defaults to
            BLEU, ROUGE_L, CIDEr and length.
        tokenize (str): ``'ptb'``: by words; ``'char'``: by characters, for scripts that put no blanks between words.
            Defaults to ``'ptb'``.

    Returns:
        tuple: ``(averages, per_image)``; the averages over the images are keyed
        'BLEU-1' … 'BLEU-4' (corpus BLEU, no mean of the images'), 'ROUGE_L',
        'CIDEr' and 'length' (mean words of a prediction). ``per_image`` has the
        same names for each key. All but 'length' are ×100 (CIDEr ≈ 100 is what
        papers write as 100).

    Raises:
        UserError: for unknown metrics, no images, keys that are on one side only, images without references
            that have words, or a metric that cannot be computed here (:func:`score_set` lists those instead).
    """
    found = score_set(CaptionSet(predictions, references, tokenize=tokenize), build_scorers(metrics))
    if found.skipped:
        raise UserError("; ".join(f"{name} {why}" for name, why in found.skipped.items()))
    return found.averages, found.per_image


def write_scored(path: str | os.PathLike[str], captions: CaptionSet, scored: ScoredCaptions) -> None:
    """Write averages, what is to be known about them, and each image's references, caption and scores, as json."""
    images = {
        key: {
            "references": captions.references[key],
            "hypothesis": captions.predictions[key],
            **({"nearest": scored.nearest[key]} if key in scored.nearest else {}),
            "scores": scored.per_image[key],
        }
        for key in captions.keys
    }
    about = {
        "metrics": scored.averages,
        "skipped": scored.skipped,
        "notes": scored.notes,
        "warnings": scored.warnings,
    }
    write_json(path, {**about, "images": images})
