"""Captions of mini-world scenes, as several people would write them, and what a caption says.

``describe`` writes lower-case English sentences of about 6 to 16 words; people
differ in their words, in how much they tell, and in what they tell first.
``parse`` reads such a sentence back: it is all that the painter knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from synthcap_mm.miniscenes.scenes import COLOURS, INDOOR, INVERSE, KINDS, PLACES, Group, Scene, kinds_of, pick

#: kind -> (singular, plural, how often).
NOUNS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "man": (("man", "men", 7), ("guy", "guys", 2), ("gentleman", "gentlemen", 1)),
    "woman": (("woman", "women", 7), ("lady", "ladies", 3)),
    "dog": (("dog", "dogs", 7), ("puppy", "puppies", 2), ("doggy", "doggies", 1)),
    "cat": (("cat", "cats", 7), ("kitty", "kitties", 1), ("kitten", "kittens", 2)),
    "horse": (("horse", "horses", 8), ("pony", "ponies", 2)),
    "bird": (("bird", "birds", 1),),
    "car": (("car", "cars", 7), ("automobile", "automobiles", 1), ("sedan", "sedans", 2)),
    "bus": (("bus", "buses", 8), ("coach", "coaches", 1), ("passenger bus", "passenger buses", 1)),
    "truck": (("truck", "trucks", 8), ("lorry", "lorries", 1), ("pickup truck", "pickup trucks", 1)),
    "bicycle": (("bicycle", "bicycles", 4), ("bike", "bikes", 6)),
    "boat": (("boat", "boats", 6), ("sailboat", "sailboats", 4)),
    "airplane": (("airplane", "airplanes", 5), ("plane", "planes", 4), ("jet", "jets", 1)),
    "kite": (("kite", "kites", 1),),
    "umbrella": (("umbrella", "umbrellas", 8), ("parasol", "parasols", 2)),
    "ball": (("ball", "balls", 1),),
    "balloon": (("balloon", "balloons", 1),),
    "chair": (("chair", "chairs", 8), ("seat", "seats", 2)),
    "table": (("table", "tables", 7), ("desk", "desks", 3)),
    "lamp": (("lamp", "lamps", 8), ("table lamp", "table lamps", 2)),
    "cup": (("cup", "cups", 6), ("mug", "mugs", 4)),
    "bottle": (("bottle", "bottles", 1),),
    "book": (("book", "books", 1),),
    "clock": (("clock", "clocks", 1),),
    "hat": (("hat", "hats", 7), ("cap", "caps", 3)),
    "vase": (("vase", "vases", 6), ("vase of flowers", "vases of flowers", 3), ("flower vase", "flower vases", 1)),
    "cake": (("cake", "cakes", 8), ("birthday cake", "birthday cakes", 2)),
    "teddy": (("teddy bear", "teddy bears", 7), ("stuffed bear", "stuffed bears", 3)),
    "suitcase": (("suitcase", "suitcases", 7), ("bag", "bags", 3)),
}
#: One plain name a kind.
VOCABULARY: tuple[str, ...] = tuple("teddy bear" if k == "teddy" else k for k in KINDS)
_CLOTHES = {
    "man": (("shirt", "shirts"), ("jacket", "jackets")),
    "woman": (("dress", "dresses"), ("coat", "coats")),
}
_SIZE_WORDS = {"small": (("small", 6), ("little", 3), ("tiny", 1)), "large": (("large", 6), ("big", 3), ("huge", 1))}
_COUNT_WORDS = {
    2: (("two", 8), ("a couple of", 1), ("a pair of", 1), ("some", 0.5)),
    3: (("three", 8), ("a few", 2), ("some", 1)),
    4: (("four", 6), ("several", 2), ("a group of", 1), ("some", 1)),
}
_PLACE_PHRASES = {
    "beach": (
        ("on the beach", 5),
        ("on a sandy beach", 2),
        ("at the beach", 2),
        ("near the ocean", 1),
        ("by the sea", 1),
    ),
    "street": (("on the street", 3), ("on a city street", 3), ("on the road", 2), ("on the side of the road", 1)),
    "field": (("in a field", 4), ("in a grassy field", 3), ("on the grass", 2), ("in an open meadow", 1)),
    "forest": (("in the forest", 3), ("in the woods", 3), ("in a forest", 2), ("among the trees", 2)),
    "snow": (("in the snow", 5), ("on a snowy hill", 2), ("on snow covered ground", 2)),
    "desert": (("in the desert", 5), ("in a desert", 2), ("on a desert dune", 1)),
    "lake": (("by a lake", 3), ("near a lake", 2), ("next to the water", 2), ("at the lake", 2)),
    "kitchen": (("in a kitchen", 5), ("in the kitchen", 3), ("on the kitchen floor", 2)),
    "bedroom": (("in a bedroom", 5), ("in the bedroom", 3), ("near a bed", 2)),
    "bathroom": (("in a bathroom", 5), ("in the bathroom", 3), ("on a tiled floor", 2)),
}
_PLACE_KEYS = {
    "beach": "beach|ocean|sea",
    "street": "street|road",
    "field": "field|grass|meadow",
    "forest": "forest|woods|trees",
    "snow": "snow|snowy",
    "desert": "desert",
    "lake": "lake|water",
    "kitchen": "kitchen",
    "bedroom": "bedroom|bed",
    "bathroom": "bathroom|tiled",
}
_LIGHT_PHRASES = {
    "day": (("on a sunny day", 2), ("during the day", 1)),
    "sunset": (("at sunset", 3), ("in the evening", 1), ("at dusk", 1)),
    "night": (("at night", 4), ("in the dark", 1)),
}
_LIGHT_TOLD = {"day": 0.02, "sunset": 0.15, "night": 0.2}
_RELATION_PHRASES = {
    "left": (("next to", 7), ("beside", 2), ("to the left of", 2), ("near", 1)),
    "right": (("next to", 7), ("beside", 2), ("to the right of", 2), ("near", 1)),
    "on": (("on top of", 5), ("on", 4)),
    "under": (("under", 3), ("underneath", 1)),
    "above": (("above", 5), ("over", 3)),
    "below": (("below", 2), ("under", 2)),
    "behind": (("behind", 7), ("in back of", 1)),
    "front": (("in front of", 8), ("before", 1)),
}
_VERBS = {
    "man": (("standing", 8), ("waiting", 2), ("posing", 1)),
    "woman": (("standing", 8), ("waiting", 2), ("posing", 1)),
    "dog": (("standing", 5), ("looking around", 1), ("playing", 1)),
    "cat": (("sitting", 6), ("resting", 1), ("looking around", 1)),
    "horse": (("standing", 6), ("grazing", 1)),
    "bird": (("flying", 6), ("soaring", 1)),
    "airplane": (("flying", 7), ("in the air", 2)),
    "kite": (("flying", 7), ("in the air", 2)),
    "balloon": (("floating", 6), ("in the air", 2)),
    "car": (("parked", 6), ("stopped", 1)),
    "bus": (("parked", 5), ("stopped", 2)),
    "truck": (("parked", 6), ("stopped", 1)),
    "bicycle": (("parked", 5), ("standing", 1)),
    "boat": (("sitting", 3), ("resting", 1)),
}
_THING_VERBS = (("sitting", 4), ("lying", 1), ("placed", 1), ("standing", 1))


class Tellers(NamedTuple):
    """How much people tell.

    Attributes:
        details: how likely a person tells an attribute, and how many such people there are.
        alone: chance that the second group is passed over.
        where: chance that the place is told beside two groups.
        chatty: chance that one group is named, and what else is said cannot be seen ("an old photo of two dogs from
            our last trip").
        weigh: how often they use each of several words or turns, given how often people do; ``list``: as people do.
    """

    details: tuple[tuple[float, float], ...]
    alone: float
    where: float
    chatty: float
    weigh: Callable[[Sequence[float]], list[float]] = list


#: Who writes the captions of the mini-world: people who were asked to describe what is there.
PLAIN = Tellers(((0.6, 0.25), (1.0, 0.75)), 0.12, 0.15, 0.0)
#: Who wrote the captions that the mini-CLIP was trained on: a wider range of people, as on the web; some chat, few tell
#: the place (with places told, CLIP's loss is met without learning what the objects are).
WEB = Tellers(((0.0, 0.2), (0.6, 0.35), (1.0, 0.45)), 0.2, 0.15, 0.2)
_OPENERS = (("a photo of", 3), ("a picture of", 3), ("a view of", 1), ("an image of", 1), ("a close up of", 1))
#: Of those who chat: nothing that a picture shows, and no word that :func:`parse` would take for one of a scene.
_CHAT_OPENERS = (
    "a photo of",
    "an old photo of",
    "a quick snapshot of",
    "my favourite picture of",
    "one more picture of",
    "the best shot of",
    "a nice shot of",
    "here we have",
    "look at",
    "this shows",
    "i found",
    "we saw",
    "a postcard of",
    "my first try at",
)
_CHAT_ENDS = (
    "from our last trip",
    "that i took yesterday",
    "for the family album",
    "as seen during our walk",
    "with my new camera",
    "which i really like",
    "sent by a friend",
    "from last summer",
    "for my collection",
    "just for fun",
    "to remember this moment",
    "that made me smile",
    "taken by my brother",
    "what do you think",
)


def coloured_name(kind: str, colour: str) -> str:
    """A plain name of a kind in a colour: ``'red dog'``, ``'woman in blue'``."""
    name = "teddy bear" if kind == "teddy" else kind
    return f"{name} in {colour}" if kind in _CLOTHES else f"{colour} {name}"


def _say(rng: np.random.Generator, table: Sequence[tuple], weigh: Callable = list):
    return pick(rng, [w for w, _ in table], weigh([p for _, p in table]))


def _article(rng: np.random.Generator, phrase: str) -> str:
    if rng.random() < 0.12:
        return f"the {phrase}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _noun_phrase(rng: np.random.Generator, group: Group, detail: float, weigh: Callable = list) -> str:
    """The group in words; ``detail`` is how likely each attribute is told."""
    nouns = NOUNS[group.kind]
    singular, plural, _ = pick(rng, nouns, weigh([n[2] for n in nouns]))
    many = group.count > 1
    words = [plural if many else singular]
    after = ""
    if rng.random() < detail:
        if group.kind in _CLOTHES:
            one, several = pick(rng, _CLOTHES[group.kind])
            an = "an" if group.colour[0] in "aeiou" else "a"
            forms = (
                f"in {group.colour} {several}" if many else f"in {an} {group.colour} {one}",
                f"in {group.colour}",
                f"wearing {group.colour}",
                f"dressed in {group.colour}",
            )
            after = " " + pick(rng, forms, weigh((6, 2, 2, 1)))
        else:
            words.insert(0, group.colour)
    if group.size != "normal" and rng.random() < 0.75 * detail:
        words.insert(0, _say(rng, _SIZE_WORDS[group.size], weigh))
    phrase = " ".join(words)
    if many:
        return f"{_say(rng, _COUNT_WORDS[group.count], weigh)} {phrase}{after}"
    return _article(rng, phrase) + after


def describe(scene: Scene, rng: np.random.Generator, tellers: Tellers = PLAIN) -> str:
    """Write a caption.

    Args:
        scene: a complete scene.
        rng: one person's wording, and how much this person tells.
        tellers: how much people tell. Defaults to :data:`PLAIN` (assumed).

    Returns:
        A lower-case sentence without a full stop. It may leave out colours,
        sizes, the place, the light or the second group; it says nothing false.
    """
    weigh = tellers.weigh
    detail = _say(rng, tellers.details)
    a = _noun_phrase(rng, scene.main, detail, weigh)
    verb = _say(rng, _VERBS.get(scene.main.kind, _THING_VERBS), weigh)
    be = "are" if scene.main.count > 1 else "is"
    place = _say(rng, _PLACE_PHRASES[scene.place], weigh)
    light = ""
    if scene.place not in INDOOR and rng.random() < _LIGHT_TOLD[scene.light]:
        light = " " + _say(rng, _LIGHT_PHRASES[scene.light], weigh)
    if rng.random() < tellers.chatty:
        group = scene.other if scene.other is not None and rng.random() < 0.5 else scene.main
        words = f"{pick(rng, _CHAT_OPENERS)} {_noun_phrase(rng, group, 0.0)}"
        return f"{words} {pick(rng, _CHAT_ENDS)}" if rng.random() < 0.85 else words
    if scene.other is None or rng.random() < tellers.alone:
        forms = (
            (f"{a} {verb} {place}{light}", 6),
            (f"{a} {be} {verb} {place}{light}", 3),
            (f"there {be} {a} {place}{light}", 2),
            (f"{_say(rng, _OPENERS, weigh)} {a} {place}{light}", 2),
            (f"{place} {a} {be} {verb}{light}", 1),
            (f"{a} {place}{light}", 2),
        )
        return _say(rng, forms, weigh)
    b = _noun_phrase(rng, scene.other, detail, weigh)
    rel = _say(rng, _RELATION_PHRASES[scene.relation], weigh)
    inverse = _say(rng, _RELATION_PHRASES[INVERSE[scene.relation]], weigh)
    be_b = "are" if scene.other.count > 1 else "is"
    where = f" {place}" if rng.random() < tellers.where else ""
    forms = (
        (f"{a} {rel} {b}{where}{light}", 10),
        (f"{a} {verb} {rel} {b}{where}{light}", 4),
        (f"{a} {be} {verb} {rel} {b}{where}{light}", 1),
        (f"{b} {inverse} {a}{where}{light}", 2),
        (f"there {be_b} {b} {inverse} {a}{where}{light}", 0.5),
        (f"{a} and {b}{where}{light}", 1),
        (f"{place} there {be} {a} {rel} {b}{light}", 0.5),
        (f"there {be} {a} {rel} {b}{where}{light}", 1),
        (f"{a} {verb} {place} {rel} {b}{light}", 0.5),
        (f"{_say(rng, _OPENERS, weigh)} {a} {rel} {b}{where}{light}", 1),
    )
    return _say(rng, forms, weigh)


def describe_distinct(scene: Scene, rng: np.random.Generator, count: int, tellers: Tellers = PLAIN) -> list[str]:
    """``count`` captions of one scene, no two the same; ``tellers`` as in :func:`describe`."""
    found: list[str] = []
    while len(found) < count:
        caption = describe(scene, rng, tellers)
        if caption not in found:
            found.append(caption)
    return found


_SIZE_OF = {word: size for size, words in _SIZE_WORDS.items() for word, _ in words}
_COUNT_OF = {word: n for n, words in _COUNT_WORDS.items() for word, _ in words if word != "some"}
_COUNT_OF.update({"a": 1, "an": 1, "one": 1})
_NOUN_OF = {word: (k, many) for k, ns in NOUNS.items() for s, p, _ in ns for word, many in ((s, False), (p, True))}


def _any(words) -> str:
    return "|".join(sorted((re.escape(w) for w in words), key=len, reverse=True))


_NOUN_PHRASE = re.compile(
    rf"\b(?:(?P<count>{_any([*_COUNT_OF, 'some', 'the'])}) )?(?:(?P<size>{_any(_SIZE_OF)}) )?"
    rf"(?:(?P<colour>{_any(COLOURS)}) )?(?P<noun>{_any(_NOUN_OF)})\b"
    rf"(?: (?:wearing|dressed in|in)(?: an?)? (?P<cloth>{_any(COLOURS)})\b)?"
)
_PLACE = re.compile("|".join(rf"(?P<{place}>\b(?:{keys})\b)" for place, keys in _PLACE_KEYS.items()))
_NOT_A_PLACE = re.compile(r"\b(?:in|through) the air\b")
_LIGHT = re.compile(
    r"(?P<night>\bnight\b|\bin the dark\b)|(?P<sunset>\bsunset\b|\bevening\b|\bdusk\b)|(?P<day>\bday\b)"
)
_RELATION_OF = (
    ("left", r"\bto the left of\b"),
    ("right", r"\bto the right of\b"),
    ("front", r"\bin front of\b|\bbefore\b"),
    ("behind", r"\bbehind\b|\bin back of\b"),
    ("under", r"\bunder(?:neath)?\b|\bbelow\b"),
    ("above", r"\babove\b|\bover\b"),
    ("beside", r"\bnext to$|\bbeside\b|\bnear$"),
    ("on", r"\bon top of\b|\bon$"),
)


def _group_of(match: re.Match) -> Group:
    kind, many = _NOUN_OF[match["noun"]]
    count = _COUNT_OF.get(match["count"], None if many else 1)
    if count == 1 and many:
        count = None
    size = _SIZE_OF.get(match["size"])
    return Group(kind, match["colour"] or match["cloth"], size, count, plural=many)


def _plain(caption: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]+", " ", caption.lower()).split())


def kinds_named(caption: str) -> set[str]:
    """The kinds of things that a caption names, by any of their words.

    Args:
        caption: a sentence; unknown words are passed over.
    """
    return {_NOUN_OF[match["noun"]][0] for match in _NOUN_PHRASE.finditer(_plain(caption))}


def parse(caption: str) -> Scene:
    """What a caption says: a scene whose unsaid fields are ``None``.

    Args:
        caption: a sentence; of sentences that ``describe`` would not write, the
            known words are understood.

    Raises:
        ValueError: if the caption names no known object.
    """
    text = _plain(caption)
    nouns = list(_NOUN_PHRASE.finditer(text))
    if not nouns:
        raise ValueError(f"no object of the mini-world is named in the caption {caption!r}; known: {', '.join(KINDS)}")
    rest = _NOUN_PHRASE.sub(lambda m: " " * len(m[0]), text)
    place_match = _PLACE.search(_NOT_A_PLACE.sub(" ", rest))
    place = place_match.lastgroup if place_match else None
    light_match = _LIGHT.search(text)
    light = light_match.lastgroup if light_match else None
    main, other, relation = _group_of(nouns[0]), None, None
    if len(nouns) > 1:
        other = _group_of(nouns[1])
        between = text[nouns[0].end() : nouns[1].start()].strip()
        relation = next((name for name, pattern in _RELATION_OF if re.search(pattern, between)), None)
    return Scene(place, main, other, relation, light)


def complete(said: Scene, rng: np.random.Generator) -> Scene:
    """Fill in what a caption leaves open.

    Args:
        said: the result of :func:`parse`.
        rng: where the choices come from.

    Returns:
        A scene without ``None`` but for a missing second group.
    """

    def fill(group: Group) -> Group:
        colour = group.colour or pick(rng, KINDS[group.kind].colours)
        size = group.size or pick(rng, ("small", "normal", "large"), (0.1, 0.8, 0.1))
        count = group.count or (pick(rng, (2, 3, 4)) if group.plural else 1)
        return Group(group.kind, colour, size, count)

    fitting = [p for p in PLACES if all(g.kind in kinds_of(p) for g in said.groups)]
    place = said.place or pick(rng, fitting or PLACES)
    light = said.light
    if light is None:
        light = "day" if place in INDOOR else pick(rng, ("day", "sunset", "night"), (0.86, 0.07, 0.07))
    main = fill(said.main)
    if said.other is None:
        return Scene(place, main, None, None, light, int(rng.integers(2**31)))
    other, relation = fill(said.other), said.relation
    if relation in (None, "beside"):
        relation = "above" if KINDS[main.kind].flies else pick(rng, ("left", "right"))
    if relation in ("under", "below"):
        # The same picture, told from the other side.
        relation = "above" if KINDS[other.kind].flies or not KINDS[main.kind].bears else "on"
        main, other = other, main
    return Scene(place, main, other, relation, light, int(rng.integers(2**31)))
