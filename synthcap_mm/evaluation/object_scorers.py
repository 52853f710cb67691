"""Hallucinated objects: things that a caption names and that are not in the image (CHAIR)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from synthcap_mm.datasets.caption_formats import entries_of, read_json
from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.caption_set import CaptionSet
from synthcap_mm.evaluation.image_names import find_images
from synthcap_mm.evaluation.object_names import (
    PUBLISHED_AT,
    PUBLISHED_SHA256,
    ObjectNames,
    read_synonyms,
    synonyms_sha256,
)
from synthcap_mm.evaluation.scorer import CaptionScorer, Scores
from synthcap_mm.registry import CAPTION_SCORERS


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
        UserError: if there is no such list, or it is none; in use, if a json is no instances file, has a category
            that the list lacks, or an image that is scored is not in it.
    """

    needs = ("words",)
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
    def annotated(self) -> dict[str, tuple[list[str], set[str]]]:
        """What the jsons call each image, and the objects in it, by its number."""
        images = (image for path in self.instances for image in self._instances_of(Path(path)))
        return {number: (names, things) for number, names, things in images}

    def _instances_of(self, path: Path) -> Iterator[tuple[str, list[str], set[str]]]:
        """For each image of a json its number, what it is called, and the objects in it."""
        data = read_json(path)
        things: dict[Any, str] = {}
        for category in entries_of(path, data, "categories", ("id", "name")):
            thing = self.objects.get(str(category["name"]).lower())
            if thing is None:
                raise UserError(f"{path}: the category {category['name']!r} is not in {self.synonyms}; add a line")
            things[category["id"]] = thing
        images = entries_of(path, data, "images", ("id", "file_name"))
        by_id: dict[Any, set[str]] = {image["id"]: set() for image in images}
        for n, entry in enumerate(entries_of(path, data, "annotations", ("image_id", "category_id"))):
            if entry["image_id"] not in by_id or entry["category_id"] not in things:
                raise UserError(f"{path}, annotations[{n}]: its image or its category is not in the file")
            by_id[entry["image_id"]].add(things[entry["category_id"]])
        for image in images:
            number = str(image["id"])
            yield number, [number, str(image["file_name"])], by_id[image["id"]]

    def _present(self, captions: CaptionSet) -> dict[str, set[str]]:
        """The objects in each image: those annotated, and those that its references name."""
        files = ", ".join(map(str, self.instances))
        numbers = find_images(captions.keys, {number: names for number, (names, _) in self.annotated.items()}, files)
        unknown = [key for key in captions.keys if key not in numbers]
        if unknown:
            raise UserError(
                f"{self.metric}: {len(unknown)} of {len(captions)} images are not in {files}: {listed(unknown)}. Name "
                "the instances file(s) of these images"
            )
        return {
            key: self.annotated[numbers[key]][1].union(*(self.names.find(t.split()) for t in captions.truth[key]))
            for key in captions.keys
        }

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
        UserError: if the list is another one; see also :class:`ObjectHallucination`.
    """

    metric = "CHAIR"

    def __init__(self, synonyms: str, instances: str | Sequence[str]) -> None:
        super().__init__(synonyms, instances)
        found = synonyms_sha256(synonyms)
        if found != PUBLISHED_SHA256:
            raise UserError(
                f"{synonyms} is not the list that CHAIR was published with ({PUBLISHED_AT}): its sha256 is "
                f"{found[:12]}…, wanted {PUBLISHED_SHA256[:12]}…. With a list of your own the metric has another "
                "name: dict(type='ObjectHallucination', synonyms=..., instances=...)"
            )
