"""The mini-world as a source of captions to train on and of photos to be tested on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from synthcap_mm.datasets.captions import Caption
from synthcap_mm.miniscenes.language import describe_distinct
from synthcap_mm.miniscenes.painting import photograph
from synthcap_mm.miniscenes.scenes import Scene, scene_of, scene_rng
from synthcap_mm.options import Count, Range, Seed
from synthcap_mm.registry import DATASETS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Captions of one training scene (assumed; COCO has five): as many scenes as captions teach most.
CAPTIONS_PER_SCENE = 1


_KEY = re.compile(r"(?:(?P<world>[a-z]+)-)?(?P<split>train|val|test)-(?P<seed>\d+)-(?P<index>\d{6})")
#: The scenes of a world, by the word before its keys: the mini-world has none; a world made of it may add its own.
WORLDS: dict[str, Callable[[str, int, int], Scene]] = {"": scene_of}


def scene_key(split: str, seed: int, index: int) -> str:
    """The name of a scene: the key of its photo and the group of its captions."""
    return f"{split}-{seed}-{index:06d}"


def scene_named(key: str) -> Scene | None:
    """The scene of that name, or ``None`` if it is none's."""
    found = _KEY.fullmatch(key)
    if found is None or (found["world"] or "") not in WORLDS:
        return None
    return WORLDS[found["world"] or ""](found["split"], int(found["seed"]), int(found["index"]))


class _Scenes:
    """Scenes by their number, and what people say of them; a world made of this one overrides these three."""

    seed: int

    def _key(self, split: str, index: int) -> str:
        return scene_key(split, self.seed, index)

    def _scene_of(self, split: str, index: int) -> Scene:
        return scene_of(split, self.seed, index)

    def _captions_of(self, split: str, index: int, count: int) -> list[str]:
        return describe_distinct(self._scene_of(split, index), scene_rng(split, self.seed, index, 1), count)


@DATASETS.register_module()
class MiniScenesCaptions(_Scenes):
    """Captions of training scenes, one a scene; the scenes themselves are not kept.

    Args:
        num: number of captions. Defaults to 4000 (the project's plan).
        seed: which scenes; other seeds have other scenes. Defaults to 0.
    """

    def __init__(self, num: Count = 4000, seed: Seed = 0) -> None:
        self.num, self.seed = num, seed

    def __len__(self) -> int:
        return self.num

    def read(self) -> list[Caption]:
        """The captions; ``group`` is the scene's key, ``id`` the same with ``-0``."""
        found = []
        for index in range(-(-self.num // CAPTIONS_PER_SCENE)):
            key = self._key("train", index)
            texts = self._captions_of("train", index, CAPTIONS_PER_SCENE)
            found += [Caption(f"{key}-{j}", text, key) for j, text in enumerate(texts)]
        return found[: self.num]

    def describe(self) -> str:
        """What it is, in a sentence."""
        scenes = -(-self.num // CAPTIONS_PER_SCENE)
        return f"{self.num} captions of {scenes} scenes of the mini-world (seed {self.seed})"


@DATASETS.register_module()
class MiniScenesPhotos(_Scenes):
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
    """

    def __init__(
        self,
        split: Literal["train", "val", "test"] = "val",
        num: Count = 300,
        seed: Seed = 0,
        references: Count = 5,
        size: Annotated[int, Range("[16, 4096]")] = 64,
    ) -> None:
        self.split, self.num, self.seed, self.size = split, num, seed, size
        self._references = CAPTIONS_PER_SCENE if split == "train" else references
        self._count = -(-num // CAPTIONS_PER_SCENE) if split == "train" else num

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> list[str]:
        """One name for each photo, in order."""
        return [self._key(self.split, i) for i in range(self._count)]

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self._count:
            raise IndexError(f"MiniScenesPhotos({self.split!r}) has {self._count} photos; there is no number {index}")
        return self._scene_of(self.split, index)

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
        self._scene(index)
        return self._captions_of(self.split, index, self._references)

    def describe(self) -> str:
        """What it is, in a sentence."""
        return f"{len(self)} photos of the mini-world's {self.split!r} scenes (seed {self.seed})"
