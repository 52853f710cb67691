"""What there is in the mini-world: kinds, colours, places, and scenes drawn from a grammar.

Pure data: nothing here draws or writes. Every choice comes from a
:class:`numpy.random.Generator` seeded by integers, through ``random()`` and
``integers()`` only, so that a scene is the same on every platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
SIZES = ("small", "normal", "large")
OUTDOOR = ("beach", "street", "field", "forest", "snow", "desert", "lake")
INDOOR = ("kitchen", "bedroom", "bathroom")
PLACES = OUTDOOR + INDOOR
LIGHTS = ("day", "sunset", "night")
#: How the main group stands to the other one.
RELATIONS = ("left", "right", "on", "above", "behind", "front")
INVERSE = {"left": "right", "right": "left", "on": "under", "above": "below", "behind": "front", "front": "behind"}

_FUR = ("brown", "black", "white", "gray")
_PAINT = ("red", "yellow", "green", "blue", "black", "white", "orange")
_CLOTH = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
_HOME = ("red", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a kind of object.

    Attributes:
        name: its plain name.
        colours: the colours in which it comes.
        places: where it is met: ``'out'``, ``'in'`` or ``'any'``.
        base: its size in the picture, as a share of the picture's side.
        aspect: width over height.
        flies: whether it is met in the air.
        bears: whether other things can be on it.
        light: whether it can be on something.
    """

    name: str
    colours: tuple[str, ...]
    places: str = "any"
    base: float = 0.36
    aspect: float = 1.0
    flies: bool = False
    bears: bool = False
    light: bool = False


_KINDS = (
    Kind("man", _CLOTH, "any", 0.52, 0.42, light=True),
    Kind("woman", _CLOTH, "any", 0.50, 0.46, light=True),
    Kind("dog", _FUR, "any", 0.37, 1.25, light=True),
    Kind("cat", (*_FUR, "orange"), "any", 0.38, 0.9, light=True),
    Kind("horse", _FUR, "out", 0.46, 1.15, bears=True),
    Kind(
        "bird", ("red", "yellow", "blue", "black", "white", "green", "brown"), "out", 0.30, 1.3, flies=True, light=True
    ),
    Kind("car", _PAINT, "out", 0.36, 1.9, bears=True),
    Kind("bus", ("red", "yellow", "green", "blue", "white", "orange"), "out", 0.44, 1.6, bears=True),
    Kind("truck", _PAINT, "out", 0.40, 1.7, bears=True),
    Kind("bicycle", (*_PAINT, "pink", "purple"), "out", 0.36, 1.5),
    Kind("boat", _PAINT, "out", 0.44, 1.1, bears=True),
    Kind("airplane", ("red", "yellow", "blue", "white", "gray", "green"), "out", 0.30, 1.9, flies=True),
    Kind("kite", _CLOTH, "out", 0.32, 0.9, flies=True),
    Kind("umbrella", _CLOTH, "out", 0.40, 1.05),
    Kind("ball", _CLOTH, "any", 0.30, 1.0, light=True),
    Kind("balloon", _CLOTH, "any", 0.34, 0.62, flies=True),
    Kind("chair", _HOME, "any", 0.42, 0.75, bears=True),
    Kind("table", _HOME, "any", 0.34, 1.7, bears=True),
    Kind("lamp", _HOME, "in", 0.44, 0.62, light=True),
    Kind("cup", _HOME, "any", 0.32, 1.15, light=True),
    Kind("bottle", ("red", "green", "blue", "brown", "white", "black", "purple"), "any", 0.46, 0.38, light=True),
    Kind("book", _HOME, "any", 0.30, 1.4, light=True),
    Kind("clock", _HOME, "in", 0.34, 1.0, light=True),
    Kind("hat", _CLOTH, "any", 0.29, 1.6, light=True),
    Kind("vase", _HOME, "in", 0.42, 0.6, light=True),
    Kind("cake", ("pink", "white", "brown", "yellow", "blue", "purple"), "in", 0.33, 1.2, light=True),
    Kind("teddy", ("brown", "white", "pink", "blue", "yellow", "purple"), "any", 0.36, 0.8, light=True),
    Kind("suitcase", _HOME, "any", 0.34, 1.2, bears=True),
)
KINDS: dict[str, Kind] = {k.name: k for k in _KINDS}
_KIND_INDEX = {name: i for i, name in enumerate(KINDS)}

#: First word of the seed of every scene; the ranges never meet. ``clip`` is what the mini-CLIP was trained on.
SPLIT_CODES = {"train": 101, "val": 102, "test": 103, "clip": 104, "clip_val": 105}


@dataclass(frozen=True, slots=True)
class Group:
    """Some objects of one kind, alike.

    Attributes:
        kind: a key of :data:`KINDS`.
        colour: one of :data:`COLOURS`; for people, of their clothes. ``None``: not said (captions only).
        size: one of :data:`SIZES`; ``None``: not said.
        count: 1 to 4; ``None``: not said.
        plural: whether there are several although their count is not said.
    """

    kind: str
    colour: str | None
    size: str | None = "normal"
    count: int | None = 1
    plural: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene, or what a caption says of one (then fields may be ``None``).

    Attributes:
        place: one of :data:`PLACES`.
        main: the group that a caption would be about.
        other: a second group, or ``None``.
        relation: how ``main`` stands to ``other``, one of :data:`RELATIONS`, or
            ``'beside'`` or ``'under'``, ``'below'`` when parsed from a caption.
        light: one of :data:`LIGHTS`; ``'day'`` indoors.
        seed: seeds positions, texture and noise.
    """

    place: str | None
    main: Group
    other: Group | None = None
    relation: str | None = None
    light: str | None = "day"
    seed: int = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        """One or two groups, the main one first."""
        return (self.main,) if self.other is None else (self.main, self.other)


def held_out(kind: str, colour: str | None = None, place: str | None = None) -> bool:
    """Whether a kind in this colour, or at this place, is kept for the test split.

    About one in nine pairs of kind and colour, and one in eleven of kind and place.
    """
    k = _KIND_INDEX[kind]
    by_colour = colour is not None and (5 * k + 2 * COLOURS.index(colour)) % 9 == 4
    by_place = place is not None and (7 * k + 3 * PLACES.index(place)) % 11 == 6
    return by_colour or by_place


def is_held_out(scene: Scene) -> bool:
    """Whether a scene shows a combination that is kept for the test split."""
    return any(held_out(g.kind, g.colour, scene.place) for g in scene.groups)


def pick(rng: np.random.Generator, items: Sequence, weights: Sequence[float] | None = None):
    """One of ``items``, by ``weights`` (default: all the same)."""
    if weights is None:
        return items[int(rng.integers(len(items)))]
    at = rng.random() * sum(weights)
    for item, weight in zip(items, weights):
        at -= weight
        if at < 0:
            return item
    return items[-1]


def kinds_of(place: str) -> list[str]:
    """The kinds that are met at a place."""
    where = "out" if place in OUTDOOR else "in"
    return [k.name for k in _KINDS if k.places in ("any", where)]


def relations_of(main: str, other: str) -> list[str]:
    """The relations in which ``main`` can stand to ``other``."""
    a, b = KINDS[main], KINDS[other]
    if a.flies:
        return ["above"]
    found = ["left", "right", "behind", "front"]
    if b.bears and a.light:
        found += ["on", "on"]
    return found


def sample_group(rng: np.random.Generator, kind: str, most: int = 4) -> Group:
    """Colour, size and count for a kind."""
    colour = pick(rng, KINDS[kind].colours)
    size = pick(rng, SIZES, (0.2, 0.6, 0.2))
    if kind in ("man", "woman"):
        size = "normal"
    count = pick(rng, range(1, most + 1), (0.76, 0.13, 0.07, 0.04)[:most])
    return Group(kind, colour, size, count)


def _draft(rng: np.random.Generator, places: Sequence[str]) -> Scene:
    place = pick(rng, places)
    light = pick(rng, LIGHTS, (0.7, 0.12, 0.18)) if place in OUTDOOR else "day"
    kinds = kinds_of(place)
    main = pick(rng, kinds)
    other = relation = None
    if rng.random() < 0.8:
        others = [k for k in kinds if k != main and not KINDS[k].flies]
        other_kind = pick(rng, others)
        relation = pick(rng, relations_of(main, other_kind))
        other = sample_group(rng, other_kind, 1 if relation == "on" else 2)
    group = sample_group(rng, main, 4 if other is None else 2 if relation == "on" else 3)
    return Scene(place, group, other, relation, light, int(rng.integers(2**31)))


def sample_scene(rng: np.random.Generator, split: str = "train", places: Sequence[str] = PLACES) -> Scene:
    """A scene from the grammar.

    Args:
        rng: where the choices come from.
        split: a key of :data:`SPLIT_CODES`. Combinations for which
            :func:`held_out` holds occur in ``'test'`` only; there they have
            their natural share.
        places: where scenes may be. Defaults to :data:`PLACES`.

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLIT_CODES:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLIT_CODES)}")
    while True:
        scene = _draft(rng, places)
        if split == "test" or not is_held_out(scene):
            return scene


def scene_rng(split: str, seed: int, index: int, use: int = 0) -> np.random.Generator:
    """The generator of one scene (``use=0``) or of what is written about it (``use=1``).

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLIT_CODES:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLIT_CODES)}")
    return np.random.default_rng([SPLIT_CODES[split], int(seed), int(index), use])


def scene_of(split: str, seed: int, index: int) -> Scene:
    """Scene ``index`` of a split; any scene can be had without those before it."""
    return sample_scene(scene_rng(split, seed, index), split)
