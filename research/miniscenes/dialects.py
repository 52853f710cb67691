"""Other worlds of the mini-world's kinds, for going from one domain to another, as from COCO to Flickr30k.

``second`` is at four of the ten places, told in the words that few use in the mini-world. ``elsewhere`` is told as the
mini-world is, at the places where the second is not. The mini-CLIP knows all of them, as CLIP knows COCO and Flickr30k.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from synthcap_mm.miniscenes.language import PLAIN, Tellers, describe_distinct
from synthcap_mm.miniscenes.scenes import PLACES, SPLIT_CODES, Scene, sample_scene
from synthcap_mm.miniscenes.sources import WORLDS, MiniScenesCaptions, MiniScenesPhotos, scene_key
from synthcap_mm.registry import DATASETS


def rare_first(weights: Sequence[float]) -> list[float]:
    """The weights the other way round: what had the least gets the greatest, and so on."""
    order = sorted(range(len(weights)), key=lambda i: weights[i])
    return [weights[order[len(order) - 1 - order.index(i)]] for i in range(len(weights))]


class Dialect(NamedTuple):
    """Who writes, and of what.

    Attributes:
        places: where the scenes are.
        tellers: who writes.
        code: a further word of a scene's seed, so that dialects share no scene.
    """

    places: tuple[str, ...]
    tellers: Tellers
    code: int


_SECOND = ("snow", "desert", "lake", "bathroom")
DIALECTS = {
    "second": Dialect(_SECOND, PLAIN._replace(weigh=rare_first), 2),
    "elsewhere": Dialect(tuple(place for place in PLACES if place not in _SECOND), PLAIN, 3),
}


def dialect_rng(dialect: str, split: str, seed: int, index: int, use: int = 0) -> np.random.Generator:
    """As :func:`synthcap_mm.miniscenes.scenes.scene_rng`, of a dialect."""
    return np.random.default_rng([SPLIT_CODES[split], seed, index, use, DIALECTS[dialect].code])


def dialect_scene(dialect: str, split: str, seed: int, index: int) -> Scene:
    """As :func:`synthcap_mm.miniscenes.scenes.scene_of`, of a dialect."""
    return sample_scene(dialect_rng(dialect, split, seed, index), split, DIALECTS[dialect].places)


# Object errors are counted by the scene that a photo's key names.
WORLDS.update({name: partial(dialect_scene, name) for name in DIALECTS})


class _OfDialect:
    """The mini-world's sources with a dialect's scenes and captions."""

    dialect: str
    seed: int

    def _key(self, split: str, index: int) -> str:
        return f"{self.dialect}-{scene_key(split, self.seed, index)}"

    def _scene_of(self, split: str, index: int) -> Scene:
        return dialect_scene(self.dialect, split, self.seed, index)

    def _captions_of(self, split: str, index: int, count: int) -> list[str]:
        rng = dialect_rng(self.dialect, split, self.seed, index, 1)
        return describe_distinct(self._scene_of(split, index), rng, count, DIALECTS[self.dialect].tellers)

    def describe(self) -> str:
        """What it is, in a sentence."""
        return f"{super().describe()} in the dialect {self.dialect!r}"


@DATASETS.register_module()
class DialectCaptions(_OfDialect, MiniScenesCaptions):
    """:class:`MiniScenesCaptions` of a dialect.

    Args:
        dialect: a key of :data:`DIALECTS`.
        **options: see there.
    """

    def __init__(self, dialect: str, **options: Any) -> None:
        super().__init__(**options)
        self.dialect = dialect


@DATASETS.register_module()
class DialectPhotos(_OfDialect, MiniScenesPhotos):
    """:class:`MiniScenesPhotos` of a dialect.

    Args:
        dialect: a key of :data:`DIALECTS`.
        split: see there. Defaults to ``'val'``.
        **options: see there.
    """

    def __init__(self, dialect: str, split: str = "val", **options: Any) -> None:
        super().__init__(split, **options)
        self.dialect = dialect
