"""The dialects; and the first world, which must stay what it is to the bit, since stores and figures belong to it."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from synthcap_mm.miniscenes.language import NOUNS, describe, kinds_named, parse
from synthcap_mm.miniscenes.painting import MiniScenesPainter
from synthcap_mm.miniscenes.scenes import DIALECTS, PLACES, Group, Scene, scene_of
from synthcap_mm.miniscenes.sources import MiniScenesCaptions, MiniScenesPhotos, scene_named


def sha(text):
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def test_the_first_world_is_what_it_was():
    captions = MiniScenesCaptions(4000).read()
    told = "\n".join(f"{c.id} {c.text} {c.group}" for c in captions)
    assert sha(told) == "329b20fab8db8ca00437a7f80360f39036af44218bde1096dad7655380579e01"
    for split, references, photos in [
        ("val", "1c05df9948edb79d1fb608e7246db72dba0b480895ead20ac552cbdf339eaa43",
         "00d6885d739067877ae05927b3ad97ed58a42c2143b70f74c0255b3ff646ef91"),
        ("test", "a03972a1ac1b5b6457d557eb38a25b68d2a47368fae4a27d4cadf213ecdb955d",
         "d14408afdd40adb769a9a3c92ab537f51aa72b471b6a98e1477af4a8a2655c17"),
    ]:  # fmt: skip
        source = MiniScenesPhotos(split, num=300)
        assert sha("\n".join(t for i in range(300) for t in source.references(i))) == references
        assert sha(b"".join(source.load(i).tobytes() for i in range(20))) == photos
    assert MiniScenesPhotos("test").sha256() == "a9ac4bdc47bde555567330a4b989f0947800141b50d00badb95b71edd0ff55b5"


def test_dialects_share_no_scene_and_have_their_own_places():
    scenes = {d: [scene_of("test", 0, i, d) for i in range(400)] for d in DIALECTS}
    for one, other in itertools.combinations(scenes.values(), 2):
        assert not set(one) & set(other)
    places = {d: {s.place for s in found} for d, found in scenes.items()}
    assert places == {d: set(DIALECTS[d].places) for d in DIALECTS}
    assert places["second"] and places["elsewhere"] and not places["second"] & places["elsewhere"]
    assert places["second"] | places["elsewhere"] == places["first"] == set(PLACES)
    captions, first = {d: MiniScenesCaptions(300, dialect=d) for d in DIALECTS}, MiniScenesCaptions(300)
    for dialect in ("second", "elsewhere"):
        assert not {c.group for c in captions[dialect].read()} & {c.group for c in first.read()}
        assert captions[dialect].describe() != first.describe()
        assert MiniScenesPhotos(dialect=dialect).sha256() != MiniScenesPhotos().sha256()
    with pytest.raises(ValueError, match="dialect is one of 'first', 'second', 'elsewhere', not 'third'"):
        MiniScenesCaptions(3, dialect="third")


def test_the_second_prefers_the_words_that_are_rare_in_the_first():
    scene = Scene("snow", Group("dog", "black"), None, None, "day", 3)
    rng = np.random.default_rng(0)
    counts = {rare: Counter() for rare in (False, True)}
    for rare, found in counts.items():
        for _ in range(2000):
            words = describe(scene, rng, rare=rare).split()
            found.update(n for n, _, _ in NOUNS["dog"] if n in words)
    # 7, 2 and 1 of 10; and the other way round.
    for found, usual, least in ((counts[False], "dog", "doggy"), (counts[True], "doggy", "dog")):
        assert abs(found[usual] / 2000 - 0.7) < 0.04 and abs(found[least] / 2000 - 0.1) < 0.03


@pytest.mark.parametrize("dialect", ["second", "elsewhere"])
def test_what_it_says_is_true_and_the_painter_reads_it(dialect):
    painter = MiniScenesPainter()
    for caption in MiniScenesCaptions(150, dialect=dialect).read():
        scene, said = scene_named(caption.group), parse(caption.text)
        assert kinds_named(caption.text) <= {g.kind for g in scene.groups}
        assert said.place in (None, scene.place)
        painter.plan(caption.text, 0)


def test_a_key_names_its_scene():
    for dialect in DIALECTS:
        photos = MiniScenesPhotos("val", num=3, seed=4, dialect=dialect)
        assert [scene_named(k) for k in photos.keys] == [scene_of("val", 4, i, dialect) for i in range(3)]
    assert scene_named("third-val-4-000001") is scene_named("photo 3.jpg") is scene_named("test-0-12") is None
