"""What a metric of captions is: it gets a set of captions, says what it needs of it, and gives averages."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from synthcap_mm.evaluation.tokenizer import ptb_tokenize
from synthcap_mm.registry import CAPTION_SCORERS

#: What a scorer may need besides the captions, and the sentence for when it is not there.
NEEDS = {
    "java": "needs Java (a `java` on the PATH)",
    "image_feats": "needs features of the images: a test set read from a store of real photos",
    "encoder": "needs the encoder of the images' features for the text: encoder=dict(type=...)",
}
#: Without Java and without anything beside the captions.
DEFAULT_METRICS = ("BLEU", "ROUGE_L", "CIDEr", "length")


def few(names: Iterable[Any]) -> str:
    """The first five names, for a message."""
    names = list(names)
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


@lru_cache(maxsize=1 << 17)  # the references are the same at each validation
def _tokenized(caption: str) -> str:
    return " ".join(ptb_tokenize(caption))


class CaptionSet:
    """Captions to be scored, with their references and what else is known of the images.

    Args:
        predictions (Mapping[str, str]): caption by image key. A caption without words is allowed.
        references (Mapping[str, Sequence[str]]): captions of people by image key; the same keys.
        image_feats (Mapping[str, array], optional): ``(D,)`` by image key, of one encoder. Defaults to ``None``.
        encode_text (Callable, optional): texts → ``(N, D)`` features of the same encoder. Defaults to ``None``.

    Raises:
        ValueError: for no images, keys that are on one side only, or images without references that have words.
    """

    def __init__(
        self,
        predictions: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        image_feats: Mapping[str, Any] | None = None,
        encode_text: Callable[[list[str]], Any] | None = None,
    ) -> None:
        if not predictions:
            raise ValueError("there are no captions to score")
        missing = sorted(set(references) - set(predictions))
        if missing:
            raise ValueError(f"{len(missing)} images have references but no prediction: {few(missing)}")
        unknown = sorted(set(predictions) - set(references))
        if unknown:
            raise ValueError(f"{len(unknown)} predictions are for images without references: {few(unknown)}")
        #: Sorted: the same sums, to the bit, whatever the order.
        self.keys = sorted(predictions)
        alone = [key for key in self.keys if isinstance(references[key], str)]
        if alone:
            raise ValueError(f"the references of {few(alone)} are one string; a list of strings is expected")
        self.predictions = {key: predictions[key] for key in self.keys}
        self.references = {key: list(references[key]) for key in self.keys}
        self.image_feats = image_feats
        self.encode_text = encode_text
        wordless = [key for key in self.keys if not any(self.truth[key])]
        if wordless:
            raise ValueError(f"{len(wordless)} images have no reference with words: {few(wordless)}")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def truth(self) -> dict[str, list[str]]:
        """References, tokenised, as pycocoevalcap's scorers take them."""
        return {key: [_tokenized(text) for text in self.references[key]] for key in self.keys}

    @cached_property
    def hypotheses(self) -> dict[str, list[str]]:
        """Predictions, tokenised, one a list, as pycocoevalcap's scorers take them."""
        return {key: [_tokenized(self.predictions[key])] for key in self.keys}

    def subset(self, keys: Iterable[str]) -> CaptionSet:
        """The same of some of the images."""
        keys = list(keys)
        return CaptionSet(
            {key: self.predictions[key] for key in keys},
            {key: self.references[key] for key in keys},
            self.image_feats,
            self.encode_text,
        )

    def lacks(self, need: str) -> str | None:
        """The sentence of :data:`NEEDS` if ``need`` is not there, else ``None``."""
        there = {
            "java": lambda: shutil.which("java") is not None,
            "image_feats": lambda: self.image_feats is not None and all(key in self.image_feats for key in self.keys),
            "encoder": lambda: self.encode_text is not None,
        }
        return None if there[need]() else NEEDS[need]


class Scores(NamedTuple):
    """What a scorer found.

    Attributes:
        averages: by name, of the whole set.
        per_image: by name, one score an image, in the order of :attr:`CaptionSet.keys`; NaN where there is none.
            A metric that only exists for a set is left out.
    """

    averages: dict[str, float]
    per_image: dict[str, Sequence[float]]


class CaptionScorer(ABC):
    """One metric, or several that are computed together.

    A metric of your own is a subclass, registered under the name by which a config asks for it::

        @CAPTION_SCORERS.register_module("exclamations")
        class Exclamations(CaptionScorer):
            def score(self, captions):
                each = [float("!" in text) for text in captions.predictions.values()]
                return Scores({"exclamations": 100 * sum(each) / len(each)}, {"exclamations": each})

    Attributes:
        needs: of :data:`NEEDS`; without them the metric is skipped, and said to be.
    """

    needs: tuple[str, ...] = ()

    def lacks(self, captions: CaptionSet) -> str | None:
        """Why this metric cannot be computed here, in a few words; ``None`` if it can."""
        return next((why for why in map(captions.lacks, self.needs) if why), None)

    def describe(self) -> str | None:
        """Version or definition, where a reader of the figures needs it. Default ``None``."""
        return None

    @abstractmethod
    def score(self, captions: CaptionSet) -> Scores:
        """Score a set of captions.

        Raises:
            SkippedError: if it turns out only now that it cannot be computed.
        """


class SkippedError(RuntimeError):
    """A metric cannot be computed here; the message says why."""


@dataclass
class ScoredCaptions:
    """All metrics of a set.

    Attributes:
        averages: by name.
        per_image: by image key, then by name; only the metrics that an image has.
        skipped: why a metric that was asked for has no number, by the name it was asked for.
        notes: version or definition of a metric, by the name it was asked for.
    """

    averages: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def build_scorers(metrics: Sequence[str | Mapping[str, Any]]) -> dict[str, CaptionScorer]:
    """Scorers by the names that a config gives.

    Args:
        metrics (list[str | dict]): names, or ``dict(type=NAME, ...)`` with options; the same one twice counts once.

    Raises:
        ValueError: if it is no list, is empty, or a name is unknown; the known ones are listed.
    """
    CAPTION_SCORERS.import_from_location()
    known = ", ".join(sorted(CAPTION_SCORERS.module_dict, key=str.lower))
    if isinstance(metrics, (str, Mapping)) or not metrics:
        raise ValueError(f"metrics={metrics!r} is not a list of metrics; known: {known}")
    scorers: dict[str, CaptionScorer] = {}
    for entry in metrics:
        config = dict(entry) if isinstance(entry, Mapping) else {"type": entry}
        name = config.get("type")
        if name not in CAPTION_SCORERS.module_dict:
            raise ValueError(f"unknown metric {name!r}; known: {known}")
        scorers[name] = CAPTION_SCORERS.build(config)
    return scorers


def score_set(captions: CaptionSet, scorers: Mapping[str, CaptionScorer]) -> ScoredCaptions:
    """Score a set by several metrics; one that cannot be computed is named with the reason, and has no number."""
    found = ScoredCaptions(per_image={key: {} for key in captions.keys})
    for name, scorer in scorers.items():
        why = scorer.lacks(captions)
        if why is None:
            try:
                scores = scorer.score(captions)
            except SkippedError as error:
                why = str(error)
        if why is not None:
            found.skipped[name] = why
            continue
        note = scorer.describe()
        if note is not None:
            found.notes[name] = note
        found.averages |= {key: float(value) for key, value in scores.averages.items()}
        for metric, column in scores.per_image.items():
            for key, value in zip(captions.keys, np.asarray(column, dtype=np.float64).tolist(), strict=True):
                if value == value:
                    found.per_image[key][metric] = value
    return found
