import hashlib

import numpy as np
import pytest

from synthcap_mm.miniscenes.sources import MiniScenesCaptions, MiniScenesPhotos


def test_captions_are_numbered_grouped_and_repeatable():
    captions = MiniScenesCaptions(num=201).read()
    assert len(captions) == 201
    assert len({c.id for c in captions}) == 201
    groups = [c.group for c in captions]
    assert len(set(groups)) == 201
    assert captions == MiniScenesCaptions(num=201).read()
    assert captions[:50] == MiniScenesCaptions(num=50).read()
    assert {c.id for c in captions}.isdisjoint(c.id for c in MiniScenesCaptions(num=201, seed=1).read())
    assert len({c.text for c in captions}) > 150


def test_the_training_photos_are_those_behind_the_captions():
    captions = MiniScenesCaptions(num=40, seed=3).read()
    photos = MiniScenesPhotos("train", num=40, seed=3)
    assert len(photos) == 40
    assert photos.keys == list(dict.fromkeys(c.group for c in captions))
    for i, key in enumerate(photos.keys):
        assert photos.references(i) == [c.text for c in captions if c.group == key]


def test_photos_and_references():
    photos = MiniScenesPhotos("test", num=30)
    assert len(photos) == len(photos.keys) == len(set(photos.keys)) == 30
    image = photos.load(7)
    assert (image.size, image.mode) == ((64, 64), "RGB")
    assert (np.asarray(image) == np.asarray(MiniScenesPhotos("test", num=8).load(7))).all()
    for i in range(30):
        assert len(set(photos.references(i))) == 5
    assert len(MiniScenesPhotos("val", 3, references=2).references(0)) == 2


def test_a_photo_that_is_not_there():
    with pytest.raises(IndexError, match="3"):
        MiniScenesPhotos("val", 3).load(3)


def sha(text):
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def test_the_world_is_what_it_was_to_the_bit():
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
