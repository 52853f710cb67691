"""Hallucinated objects: things that a caption names and that are not in the image (CHAIR)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from synthcap_mm.evaluation.prediction_files import image_names
from synthcap_mm.evaluation.scorer import CaptionScorer, CaptionSet, Scores, few
from synthcap_mm.registry import CAPTION_SCORERS

#: SHA-256 of the list that CHAIR was published with (``data/synonyms.txt`` of its authors' repository), of its names
#: joined by ``', '`` and its lines by line breaks: blanks at the ends of names and lines do not matter.
PUBLISHED_SHA256 = "1cc3474f14c3ce38acffe292cdce76637e48ab82dd0078b6464f672fca0700ee"
_PUBLISHED_AT = "https://github.com/LisaAnne/Hallucination/blob/master/data/synonyms.txt"

# What names no object of its own in such company ("baby elephant" is no person), as in the published procedure.
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
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no names, or a line has an empty one.
    """
    objects: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        names = [name.strip().lower() for name in line.split(",")]
        if "" in names:
            raise ValueError(f"{path}, line {number}: a name is empty; expected 'object, other name, other name'")
        for name in names:
            objects.setdefault(name, names[0])
    if not objects:
        raise ValueError(f"{path} holds no names; expected a line an object: 'object, other name, other name'")
    return objects


def _lines(path: str | Path) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no list of objects' names at {path}. CHAIR's own: {_PUBLISHED_AT}; any other is for ObjectHallucination"
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


@CAPTION_SCORERS.register_module("ObjectHallucination")
class ObjectHallucination(CaptionScorer):
    """``ObjectHallucination-i`` and ``-s`` ×100: CHAIR's measure with a list of names of your own.

    ``-i``: the share of named objects that are not in the image; ``-s``: the share of
    captions with at least one. In the image is what is annotated, and what its
    references name. Lower is better; a caption that names nothing is not wrong.

    Args:
        synonyms (str): the list of objects and their names; see :func:`read_synonyms`.
        instances (str | list[str]): COCO's instances json(s) of the images, with ``images``, ``annotations`` and
            ``categories``; the images are found by file name or number.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: if the list is none; in use, if a json is no instances file, has a category that the list lacks,
            or an image that is scored is not in it.
    """

    metric = "ObjectHallucination"

    def __init__(self, synonyms: str, instances: str | Sequence[str]) -> None:
        self.synonyms = synonyms
        self.objects = read_synonyms(synonyms)
        self.names = ObjectNames(self.objects)
        self.instances = [instances] if isinstance(instances, (str, Path)) else list(instances)

    def describe(self) -> str:
        """See :class:`CaptionScorer`."""
        return f"names of {Path(self.synonyms).name}, sha256 {synonyms_sha256(self.synonyms)[:12]}"

    @cached_property
    def annotated(self) -> dict[str, set[str]]:
        """Objects by each name of an image."""
        from synthcap_mm.datasets.caption_formats import entries_of, read_json

        found: dict[str, set[str]] = {}
        for path in map(Path, self.instances):
            data = read_json(path)
            things: dict[Any, str] = {}
            for category in entries_of(path, data, "categories", ("id", "name")):
                thing = self.objects.get(str(category["name"]).lower())
                if thing is None:
                    raise ValueError(f"{path}: the category {category['name']!r} is not in {self.synonyms}; add a line")
                things[category["id"]] = thing
            by_id: dict[Any, set[str]] = {}
            for image in entries_of(path, data, "images", ("id", "file_name")):
                own = by_id.setdefault(image["id"], set())
                for name in {str(image["id"]), *image_names(str(image["file_name"]))}:
                    found[name] = own
            for n, entry in enumerate(entries_of(path, data, "annotations", ("image_id", "category_id"))):
                if entry["image_id"] not in by_id or entry["category_id"] not in things:
                    raise ValueError(f"{path}, annotations[{n}]: its image or its category is not in the file")
                by_id[entry["image_id"]].add(things[entry["category_id"]])
        return found

    def _present(self, captions: CaptionSet) -> dict[str, set[str]]:
        present: dict[str, set[str]] = {}
        unknown = []
        for key in captions.keys:
            name = next((name for name in image_names(key) if name in self.annotated), None)
            if name is None:
                unknown.append(key)
            else:
                said: Iterable[str] = (t for text in captions.truth[key] for t in self.names.find(text.split()))
                present[key] = self.annotated[name] | set(said)
        if unknown:
            raise ValueError(
                f"{self.metric}: {len(unknown)} of {len(captions)} images are not in "
                f"{', '.join(map(str, self.instances))}: {few(unknown)}. Name the instances file(s) of these images"
            )
        return present

    def score(self, captions: CaptionSet) -> Scores:
        """See :class:`CaptionScorer`."""
        present = self._present(captions)
        named = [self.names.find(captions.hypotheses[key][0].split()) for key in captions.keys]
        wrong = [sum(thing not in present[key] for thing in things) for key, things in zip(captions.keys, named)]
        total = sum(map(len, named))
        share, caption = f"{self.metric}-i", f"{self.metric}-s"
        return Scores(
            {share: 100 * sum(wrong) / total if total else 0.0, caption: 100 * sum(map(bool, wrong)) / len(captions)},
            {
                share: [100 * bad / len(things) if things else float("nan") for bad, things in zip(wrong, named)],
                caption: [100.0 * bool(bad) for bad in wrong],
            },
        )


@CAPTION_SCORERS.register_module("CHAIR")
class CHAIR(ObjectHallucination):
    """``CHAIR-i`` and ``CHAIR-s`` ×100 (Rohrbach et al., EMNLP 2018), with the list of names it was published with.

    The procedure is the published one (double words, "baby elephant", "toilet seat"),
    on the tokens of the COCO evaluation and with plurals by rules of ours.

    Args:
        synonyms (str): the published list; compared by hash.
        instances (str | list[str]): see :class:`ObjectHallucination`.

    Raises:
        ValueError: if the list is another one; see also :class:`ObjectHallucination`.
    """

    metric = "CHAIR"

    def __init__(self, synonyms: str, instances: str | Sequence[str]) -> None:
        super().__init__(synonyms, instances)
        found = synonyms_sha256(synonyms)
        if found != PUBLISHED_SHA256:
            raise ValueError(
                f"{synonyms} is not the list that CHAIR was published with ({_PUBLISHED_AT}): its sha256 is "
                f"{found[:12]}…, wanted {PUBLISHED_SHA256[:12]}…. With a list of your own the metric has another "
                "name: dict(type='ObjectHallucination', synonyms=..., instances=...)"
            )
