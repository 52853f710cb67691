"""Things that a caption names, by a vocabulary: hard prompts for methods without pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from synthcap_mm.models.tag_providers.clip_tag_provider import read_vocabulary
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import Tag

#: Last words whose plural no rule gives; compounds of "man" and "woman" follow these.
_IRREGULAR = {
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "potato": "potatoes",
    "tomato": "tomatoes",
}


def plural(name: str) -> str:
    """The plural of an English name, by rule: of its last word, or of the one before 'of'.

    Args:
        name: a singular name in lower case, e.g. ``'wine glass'``, ``'vase of flowers'``.
    """
    head, of, rest = name.partition(" of ")
    start, word = head[: head.rfind(" ") + 1], head[head.rfind(" ") + 1 :]
    if word in _IRREGULAR:
        word = _IRREGULAR[word]
    elif re.search(r"(^|wo|[a-z]{3})man$", word) and word not in ("human", "german", "roman"):
        word = word[:-2] + "en"
    elif re.search(r"(?:kni|wi|li)fe$", word):
        word = word[:-2] + "ves"
    elif re.search(r"(?:lea|cal|loa|shel|wol|thie|hal|el)f$", word):
        word = word[:-1] + "ves"
    elif re.search(r"[^aeiou]y$", word):
        word = word[:-1] + "ies"
    else:
        word += "es" if re.search(r"(?:s|x|z|ch|sh)$", word) else "s"
    return start + word + of + rest


@MODELS.register_module()
class CaptionEntities:
    """Names of a vocabulary that a caption mentions, in the singular or the plural, in the order of mention.

    What `ViECap <https://arxiv.org/abs/2307.16525>`_ takes for its hard prompt in training are the nouns of the
    caption, found by a part-of-speech tagger. Here a vocabulary is looked through instead, which needs no download
    and finds nothing that the other side, the picture's, could not name either. Of overlapping names the longest
    counts (*teddy bear*, not *bear*). Whole words are compared, by case-blind equality: a verb of the same form
    (*a man watches*) counts as the noun.

    Args:
        vocabulary (str | list[str]): path of a text file with one name a line, or the names; singular.
        aliases (dict[str, list[str]], optional): other words for a name, which is what is answered:
            ``{'person': ['man', 'woman']}``. Defaults to ``None``.

    Raises:
        FileNotFoundError: if the vocabulary is missing.
        ValueError: for a vocabulary with repeated names, aliases of a name that it lacks, or a word that
            stands for two names.
    """

    recipe_version: int = 1
    not_in_recipe: tuple[str, ...] = ()

    def __init__(
        self, vocabulary: str | Path | Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.names = [name.lower() for name in read_vocabulary(vocabulary)]
        aliases = dict(aliases or {})
        unknown = sorted(set(aliases) - set(self.names))
        if unknown:
            raise ValueError(f"CaptionEntities: aliases for {unknown[:5]}, which the vocabulary does not have")
        self._name_of: dict[str, str] = {}
        singular = [(name, name) for name in self.names]
        singular += [(word.lower(), name) for name, words in aliases.items() for word in words]
        for word, name in singular:
            if self._name_of.setdefault(word, name) != name:
                raise ValueError(f"CaptionEntities: {word!r} stands for {self._name_of[word]!r} and for {name!r}")
        # A plural gives way to a name of the same form ("glasses" beside "glass").
        for word, name in singular:
            self._name_of.setdefault(plural(word), name)
        forms = sorted(self._name_of, key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, forms))})(?![\w-])")

    def names_in(self, caption: str) -> list[str]:
        """The names that a caption mentions, each once.

        Args:
            caption: a sentence.
        """
        text = " ".join(caption.lower().split())
        return list(dict.fromkeys(self._name_of[found] for found in self._pattern.findall(text)))

    def tag_captions(self, captions: Sequence[str]) -> list[list[Tag]]:
        """The names as tags of score 1, without a box.

        Args:
            captions: B sentences.

        Returns:
            list[list[Tag]]: for each caption its names, in the order of mention.
        """
        return [[Tag(name, 1.0) for name in self.names_in(caption)] for caption in captions]
