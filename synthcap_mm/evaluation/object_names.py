"""Objects that a caption names, by a list of objects and their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from synthcap_mm.errors import UserError

#: SHA-256 of the list that CHAIR was published with (``data/synonyms.txt`` of its authors' repository), of its names
#: joined by ``', '`` and its lines by line breaks: blanks at the ends of names and lines do not matter.
PUBLISHED_SHA256 = "1cc3474f14c3ce38acffe292cdce76637e48ab82dd0078b6464f672fca0700ee"
PUBLISHED_AT = "https://github.com/LisaAnne/Hallucination/blob/master/data/synonyms.txt"

# Words that do not count before certain names ("baby elephant" is no person), as in the published procedure.
_YOUNG_OR_OLD = ("baby", "adult")
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
_PASSENGER = ("jet", "train")
_NO_OBJECT = ("home plate", "train track")
_IRREGULAR = {"men": "man", "women": "woman", "knives": "knife", "mice": "mouse", "calves": "calf", "geese": "goose"}
_IRREGULAR |= {"thieves": "thief", "oxen": "ox", "loaves": "loaf", "shelves": "shelf", "wolves": "wolf"}


def read_synonyms(path: str | Path) -> dict[str, str]:
    """A list of objects and their names.

    Args:
        path: text, UTF-8; a line an object, its names divided by commas, the object's own first.

    Returns:
        dict[str, str]: the object of each name, in lower case; the first line that has a name counts.

    Raises:
        UserError: if there is no such file, it holds no names, or a line has an empty one.
    """
    objects: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        names = [name.strip().lower() for name in line.split(",")]
        if "" in names:
            raise UserError(f"{path}, line {number}: a name is empty; expected 'object, other name, other name'")
        for name in names:
            objects.setdefault(name, names[0])
    if not objects:
        raise UserError(f"{path} holds no names; expected a line an object: 'object, other name, other name'")
    return objects


def _lines(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise UserError(
            f"no list of objects' names at {path}. CHAIR's own: {PUBLISHED_AT}; any other is for ObjectHallucination"
        )
    return [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def synonyms_sha256(path: str | Path) -> str:
    """Hash of a list's content; see :data:`PUBLISHED_SHA256`."""
    lines = [", ".join(name.strip() for name in line.split(",")) for line in _lines(path)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _singulars(word: str) -> tuple[str, ...]:
    """What a word may be the plural of, the word itself first."""
    found = [word]
    if word in _IRREGULAR:
        found.append(_IRREGULAR[word])
    if word.endswith("ies") and len(word) > 4:
        found.append(word[:-3] + "y")
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
    return tuple(found)


class ObjectNames:
    """Finds the objects that a caption names.

    Args:
        objects (Mapping[str, str]): see :func:`read_synonyms`.
    """

    def __init__(self, objects: Mapping[str, str]) -> None:
        phrases: dict[str, str | None] = dict(objects)
        for animal in _ANIMALS:
            phrases |= {f"{age} {animal}": objects.get(animal) for age in _YOUNG_OR_OLD}
        phrases |= {f"passenger {vehicle}": objects.get(vehicle) for vehicle in _PASSENGER}
        phrases |= dict.fromkeys(_NO_OBJECT)
        if "toilet" in objects:
            phrases["toilet seat"] = objects["toilet"]
        self._phrases = phrases
        self._longest = max(len(phrase.split()) for phrase in phrases)
        self._seat = objects.get("seat")

    def find(self, words: Sequence[str]) -> list[str]:
        """Objects that tokenised words name, each as often as it is named; the longest name counts.

        Args:
            words: lower-case tokens of a caption. The last word of a name may be in the plural.
        """
        found: list[tuple[str, str]] = []
        place = 0
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                *head, last = words[place : place + length]
                names = [" ".join([*head, form]) for form in _singulars(last)]
                name = next((name for name in names if name in self._phrases), None)
                if name is not None:
                    if self._phrases[name] is not None:
                        found.append((name, self._phrases[name]))
                    place += length
                    break
            else:
                place += 1
        # "the seat of the toilet" is no chair
        if any(name == "toilet" for name, _ in found):
            found = [(name, thing) for name, thing in found if not (name == "seat" and thing == self._seat)]
        return [thing for _, thing in found]
