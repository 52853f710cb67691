"""The mini-world's dialects: other scenes, other words, the same kinds."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from research.miniscenes.dialects import DIALECTS, DialectCaptions, DialectPhotos, dialect_scene
from synthcap_mm.miniscenes.language import NOUNS, PLAIN, describe, kinds_named, parse
from synthcap_mm.miniscenes.painting import MiniScenesPainter
from synthcap_mm.miniscenes.scenes import PLACES, Group, Scene, scene_of
from synthcap_mm.miniscenes.sources import MiniScenesCaptions, scene_named


def test_dialects_share_no_scene_and_have_their_own_places():
    scenes = {d: [dialect_scene(d, "test", 0, i) for i in range(400)] for d in DIALECTS}
    scenes["mini-world"] = [scene_of("test", 0, i) for i in range(400)]
    for one, other in itertools.combinations(scenes.values(), 2):
        assert not set(one) & set(other)
    places = {d: {s.place for s in found} for d, found in scenes.items()}
    assert not places["second"] & places["elsewhere"] and places["second"] and places["elsewhere"]
    assert places["second"] | places["elsewhere"] == places["mini-world"] == set(PLACES)
    first = MiniScenesCaptions(300)
    for dialect in DIALECTS:
        captions = DialectCaptions(dialect, num=300)
        assert not {c.group for c in captions.read()} & {c.group for c in first.read()}
        assert captions.describe() != first.describe()


def test_their_captions_and_photos_are_what_they_were():
    """To the bit: stores and published figures belong to them."""
    for dialect, captions, photos in (
        ("second", "35872c7ef737e49f", "b110b768f6cd3473"),
        ("elsewhere", "4ac699ce1340fe62", "f4d9e8c3ad6527fc"),
    ):
        told = "".join(f"{c.id} {c.text} {c.group}\n" for c in DialectCaptions(dialect, num=200).read())
        shown = DialectPhotos(dialect, "test", num=20)
        told += "".join(text for i in range(20) for text in shown.references(i))
        assert hashlib.sha256(told.encode()).hexdigest()[:16] == captions
        assert hashlib.sha256(b"".join(shown.load(i).tobytes() for i in range(20))).hexdigest()[:16] == photos


def test_the_second_prefers_the_words_that_are_rare_in_the_mini_world():
    scene = Scene("snow", Group("dog", "black"), None, None, "day", 3)
    rng = np.random.default_rng(0)
    for tellers, usual, least in ((PLAIN, "dog", "doggy"), (DIALECTS["second"].tellers, "doggy", "dog")):
        found = Counter()
        for _ in range(2000):
            words = describe(scene, rng, tellers).split()
            found.update(n for n, _, _ in NOUNS["dog"] if n in words)
        # 7 and 1 of 10; and the other way round.
        assert abs(found[usual] / 2000 - 0.7) < 0.04 and abs(found[least] / 2000 - 0.1) < 0.03


@pytest.mark.parametrize("dialect", ["second", "elsewhere"])
def test_what_it_says_is_true_and_the_painter_reads_it(dialect):
    painter = MiniScenesPainter()
    for caption in DialectCaptions(dialect, num=150).read():
        scene, said = scene_named(caption.group), parse(caption.text)
        assert kinds_named(caption.text) <= {g.kind for g in scene.groups}
        assert said.place in (None, scene.place)
        painter.plan(caption.text, 0)


def test_a_key_names_its_scene():
    for dialect in DIALECTS:
        photos = DialectPhotos(dialect, "val", num=3, seed=4)
        assert [scene_named(k) for k in photos.keys] == [dialect_scene(dialect, "val", 4, i) for i in range(3)]
    assert scene_named("third-val-4-000001") is scene_named("photo 3.jpg") is scene_named("test-0-12") is None
