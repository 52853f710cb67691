"""The mini-world as a source of captions to train on and of photos to be tested on."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from synthcap_mm.datasets.captions import Caption
from synthcap_mm.miniscenes.language import describe_distinct
from synthcap_mm.miniscenes.painting import photograph
from synthcap_mm.miniscenes.scenes import DIALECTS, Scene, scene_of, scene_rng
from synthcap_mm.registry import DATASETS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Captions of one training scene (assumed; COCO has five): as many scenes as captions teach most.
CAPTIONS_PER_SCENE = 1


_KEY = re.compile(r"(?:(?P<dialect>[a-z]+)-)?(?P<split>train|val|test)-(?P<seed>\d+)-(?P<index>\d{6})")


def scene_key(split: str, seed: int, index: int, dialect: str = "first") -> str:
    """The name of a scene: the key of its photo and the group of its captions."""
    return f"{'' if dialect == 'first' else dialect + '-'}{split}-{seed}-{index:06d}"


def scene_named(key: str) -> Scene | None:
    """The scene of that name, or ``None`` if it is none's."""
    found = _KEY.fullmatch(key)
    if found is None or (found["dialect"] or "first") not in DIALECTS:
        return None
    return scene_of(found["split"], int(found["seed"]), int(found["index"]), found["dialect"] or "first")


def _check(name: str, num: int, seed: int, dialect: str) -> None:
    if dialect not in DIALECTS:
        raise ValueError(f"{name}: dialect is one of {', '.join(map(repr, DIALECTS))}, not {dialect!r}")
    for field, value, least in (("num", num, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: {field} must be an integer of at least {least}, not {value!r}")


@DATASETS.register_module()
class MiniScenesCaptions:
    """Captions of training scenes, one a scene; the scenes themselves are not kept.

    Args:
        num: number of captions. Defaults to 4000 (the project's plan).
        seed: which scenes; other seeds have other scenes. Defaults to 0.
        dialect: ``'second'``: scenes at fewer places, told in words that are rare in the first;
            ``'elsewhere'``: told as the first, at all other places than the second's; see
            :data:`~synthcap_mm.miniscenes.scenes.DIALECTS`. Defaults to ``'first'``.

    Raises:
        ValueError: if ``num`` is below 1, ``seed`` is negative, or the dialect is unknown.
    """

    def __init__(self, num: int = 4000, seed: int = 0, dialect: str = "first") -> None:
        _check(type(self).__name__, num, seed, dialect)
        self.num, self.seed, self.dialect = num, seed, dialect

    def __len__(self) -> int:
        return self.num

    def read(self) -> list[Caption]:
        """The captions; ``group`` is the scene's key, ``id`` the same with ``-0``."""
        found = []
        for index in range(-(-self.num // CAPTIONS_PER_SCENE)):
            where = ("train", self.seed, index)
            key = scene_key(*where, self.dialect)
            texts = describe_distinct(
                scene_of(*where, self.dialect),
                scene_rng(*where, 1, self.dialect),
                CAPTIONS_PER_SCENE,
                DIALECTS[self.dialect].rare,
            )
            found += [Caption(f"{key}-{j}", text, key) for j, text in enumerate(texts)]
        return found[: self.num]

    def describe(self) -> str:
        """What it is, in a sentence."""
        scenes = -(-self.num // CAPTIONS_PER_SCENE)
        told = "" if self.dialect == "first" else f", {self.dialect} dialect"
        return f"{self.num} captions of {scenes} scenes of the mini-world (seed {self.seed}{told})"


@DATASETS.register_module()
class MiniScenesPhotos:
    """Photos of mini-world scenes with reference captions, rendered when loaded.

    The scenes of ``'train'``, ``'val'``, ``'test'`` and those that the
    mini-CLIP was trained on come from seeds that never meet.

    Args:
        split: ``'val'``, ``'test'``, or ``'train'``: the photos of exactly the
            scenes behind ``MiniScenesCaptions(num, seed)``, with the captions'
            groups as keys, for the upper bound. Defaults to ``'val'``.
        num: number of photos; for ``'train'``, of the captions behind whose
            scenes the photos lie. Defaults to 300 (the project's plan).
        seed: which scenes. Defaults to 0.
        references: captions of each photo; for ``'train'`` they are the
            training captions, whatever is said here. Defaults to 5.
        size: side of a photo in pixels. Defaults to 64 (assumed).
        dialect: see :class:`MiniScenesCaptions`. Defaults to ``'first'``.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        split: str = "val",
        num: int = 300,
        seed: int = 0,
        references: int = 5,
        size: int = 64,
        dialect: str = "first",
    ) -> None:
        _check(type(self).__name__, num, seed, dialect)
        if split not in ("train", "val", "test"):
            raise ValueError(f"MiniScenesPhotos: split must be 'train', 'val' or 'test', not {split!r}")
        if references < 1 or size < 16:
            raise ValueError(f"MiniScenesPhotos: needs references >= 1 and size >= 16, not {references} and {size}")
        self.split, self.num, self.seed, self.size, self.dialect = split, num, seed, size, dialect
        self._references = CAPTIONS_PER_SCENE if split == "train" else references
        self._count = -(-num // CAPTIONS_PER_SCENE) if split == "train" else num

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> list[str]:
        """One name for each photo, in order."""
        return [scene_key(self.split, self.seed, i, self.dialect) for i in range(self._count)]

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self._count:
            raise IndexError(f"MiniScenesPhotos({self.split!r}) has {self._count} photos; there is no number {index}")
        return scene_of(self.split, self.seed, index, self.dialect)

    def load(self, index: int) -> Image:
        """Photo ``index``: RGB, ``size`` × ``size`` pixels.

        Raises:
            IndexError: if there is no such photo.
        """
        return photograph(self._scene(index), self.size)

    def references(self, index: int) -> list[str]:
        """The captions of photo ``index``, no two the same.

        Raises:
            IndexError: if there is no such photo.
        """
        scene = self._scene(index)
        rng = scene_rng(self.split, self.seed, index, 1, self.dialect)
        return describe_distinct(scene, rng, self._references, DIALECTS[self.dialect].rare)

    def describe(self) -> str:
        """What it is, in a sentence."""
        told = "" if self.dialect == "first" else f", {self.dialect} dialect"
        return f"{len(self)} photos of the mini-world's {self.split!r} scenes (seed {self.seed}{told})"

    def sha256(self) -> str:
        """Identity of the photos and their references: a hash of what they are made from."""
        made_from = f"miniscenes {self.split} {self.num} {self.seed} {self._references} {self.size}"
        made_from += "" if self.dialect == "first" else f" {self.dialect}"
        return hashlib.sha256(made_from.encode()).hexdigest()
