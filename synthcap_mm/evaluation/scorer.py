"""What a metric of captions is: it gets a set of captions, says what it needs of it, and returns averages."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.registry import CAPTION_SCORERS

#: What a scorer may need besides the captions, and the sentence for when it is missing.
NEEDS = {
    "java": "needs Java (a `java` on the PATH)",
    "image_feats": "needs features of the images: a test set read from a store of real photos",
    "words": "counts English words, and the captions are split into characters",
    "encoder": "needs the encoder of the images' features for the text: encoder=dict(type=...)",
}
#: Without Java and without anything beside the captions.
DEFAULT_METRICS = ("BLEU", "ROUGE_L", "CIDEr", "length")


class Scores(NamedTuple):
    """What a scorer found.

    Attributes:
        averages: by name, of the whole set.
        per_image: by name, one score an image, in the order of :attr:`CaptionSet.keys`; NaN where there is none.
            A metric that only exists for a set is left out.
        warning: why the averages say little of this set. Default ``None``.
    """

    averages: dict[str, float]
    per_image: dict[str, Sequence[float]]
    warning: str | None = None


class SkippedError(RuntimeError):
    """A metric cannot be computed here; the message says why."""


class CaptionScorer(ABC):
    """One metric, or several that are computed together.

    A metric of your own is a subclass, registered under the name by which a config asks for it::

        @CAPTION_SCORERS.register_module("exclamations")
        class Exclamations(CaptionScorer):
            def score(self, captions):
                each = [float("!" in text) for text in captions.predictions.values()]
                return Scores({"exclamations": 100 * sum(each) / len(each)}, {"exclamations": each})

    Attributes:
        needs: of :data:`NEEDS`; where one is missing, the metric is skipped, and the reason reported.
    """

    needs: tuple[str, ...] = ()

    def lacks(self, captions: CaptionSet) -> str | None:
        """Why this metric cannot be computed here, in a few words; ``None`` if it can."""
        feats = captions.image_feats
        there = {
            "java": "java" in self.needs and shutil.which("java") is not None,
            "image_feats": feats is not None and all(key in feats for key in captions.keys),
            "words": captions.tokenize == "ptb",
            "encoder": captions.encode_text is not None,
        }
        return next((NEEDS[need] for need in self.needs if not there[need]), None)

    def describe(self) -> str | None:
        """Version or definition, where a reader of the figures needs it. Default ``None``."""
        return None

    @abstractmethod
    def score(self, captions: CaptionSet) -> Scores:
        """Score a set of captions.

        Raises:
            SkippedError: if it turns out only now that it cannot be computed.
        """


def build_scorers(metrics: Sequence[str | Mapping[str, Any]]) -> dict[str, CaptionScorer]:
    """Scorers by the names that a config gives.

    Args:
        metrics (list[str | dict]): names, or ``dict(type=NAME, ...)`` with options; the same one twice counts once.

    Raises:
        UserError: if it is no list, is empty, or a name is unknown; the known ones are listed.
    """
    CAPTION_SCORERS.import_from_location()
    known = ", ".join(sorted(CAPTION_SCORERS.module_dict, key=str.lower))
    if isinstance(metrics, (str, Mapping)) or not metrics:
        raise UserError(f"metrics={metrics!r} is not a list of metrics; known: {known}")
    scorers: dict[str, CaptionScorer] = {}
    for entry in metrics:
        config = dict(entry) if isinstance(entry, Mapping) else {"type": entry}
        name = config.get("type")
        if name not in CAPTION_SCORERS.module_dict:
            raise UserError(f"metrics: unknown metric {name!r}; known: {known}")
        scorers[name] = CAPTION_SCORERS.build(config)
    return scorers
