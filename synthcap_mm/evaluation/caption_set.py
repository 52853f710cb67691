"""A set of captions to be scored, joined with the references of the same images."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.tokenizer import Tokenize, char_tokenize, ptb_tokenize

#: Letters of scripts that put no blanks between words: Thai and Lao, kana, Chinese characters.
_UNSPACED = re.compile("[\u0e01-\u0edf\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_BLANK_BETWEEN = re.compile(rf"(?<={_UNSPACED.pattern})\s+(?={_UNSPACED.pattern})")


@lru_cache(maxsize=1 << 17)  # the references are the same at each validation
def _tokenized(caption: str, tokenize: Tokenize) -> str:
    return " ".join(char_tokenize(caption) if tokenize == "char" else ptb_tokenize(caption))


class CaptionSet:
    """Captions to be scored, with their references and what else is known of the images.

    Args:
        predictions (Mapping[str, str]): caption by image key. A caption without words is allowed.
        references (Mapping[str, Sequence[str]]): captions of people by image key; the same keys.
        image_feats (Mapping[str, array], optional): ``(D,)`` by image key, of one encoder. Defaults to ``None``.
        encode_text (Callable, optional): texts → ``(N, D)`` features of the same encoder. Defaults to ``None``.
        tokenize (str): ``'ptb'``: words, as the COCO evaluation splits them; ``'char'``: characters. Defaults to
            ``'ptb'``.

    Attributes:
        keys (list[str]): of the images, sorted: the same sums, to the bit, whatever the order of the predictions.

    Raises:
        UserError: for no images, keys that are on one side only, or images without references that have words.
    """

    def __init__(
        self,
        predictions: Mapping[str, str],
        references: Mapping[str, Sequence[str]],
        image_feats: Mapping[str, Any] | None = None,
        encode_text: Callable[[list[str]], Any] | None = None,
        tokenize: Tokenize = "ptb",
    ) -> None:
        if not predictions:
            raise UserError("there are no captions to score")
        missing = sorted(set(references) - set(predictions))
        if missing:
            raise UserError(f"{len(missing)} images have references but no prediction: {listed(missing)}")
        unknown = sorted(set(predictions) - set(references))
        if unknown:
            raise UserError(f"{len(unknown)} predictions are for images without references: {listed(unknown)}")
        self.keys = sorted(predictions)
        alone = [key for key in self.keys if isinstance(references[key], str)]
        if alone:  # each letter would become a reference
            raise UserError(f"the references of {listed(alone)} are one string; a list of strings is expected")
        self.predictions = {key: predictions[key] for key in self.keys}
        self.references = {key: list(references[key]) for key in self.keys}
        self.image_feats = image_feats
        self.encode_text = encode_text
        self.tokenize = tokenize
        wordless = [key for key in self.keys if not any(self.truth[key])]
        if wordless:
            raise UserError(f"{len(wordless)} images have no reference with words: {listed(wordless)}")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def truth(self) -> dict[str, list[str]]:
        """References, tokenised, as pycocoevalcap's scorers take them."""
        return {key: [_tokenized(text, self.tokenize) for text in self.references[key]] for key in self.keys}

    @cached_property
    def hypotheses(self) -> dict[str, list[str]]:
        """Predictions, tokenised, one a list, as pycocoevalcap's scorers take them."""
        return {key: [_tokenized(self.predictions[key], self.tokenize)] for key in self.keys}

    @property
    def empty(self) -> list[str]:
        """Keys of the images whose caption has no characters but blanks."""
        return [key for key in self.keys if not self.predictions[key].strip()]

    @property
    def unspaced(self) -> bool:
        """Whether the references are mostly in a script without blanks between words, and nobody put them there."""
        text = " ".join(text for texts in self.references.values() for text in texts)
        letters = len(_UNSPACED.findall(text))
        # Chinese that was split has a blank after about 2 characters, Thai after about 5.
        return letters * 2 > len("".join(text.split())) and letters > 8 * len(_BLANK_BETWEEN.findall(text))

    def with_predictions(self, predictions: Mapping[str, str]) -> CaptionSet:
        """Other captions of the same images; all else stays as it is."""
        other = copy.copy(self)
        other.__dict__.pop("hypotheses", None)
        other.predictions = {key: predictions[key] for key in self.keys}
        return other

    def subset(self, keys: Iterable[str]) -> CaptionSet:
        """The same of some of the images."""
        keys = list(keys)
        return CaptionSet(
            {key: self.predictions[key] for key in keys},
            {key: self.references[key] for key in keys},
            self.image_feats,
            self.encode_text,
            self.tokenize,
        )
