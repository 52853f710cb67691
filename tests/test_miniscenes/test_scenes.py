import numpy as np
import pytest

from synthcap_mm.miniscenes.scenes import (
    KINDS,
    PLACES,
    SPLIT_CODES,
    held_out,
    is_held_out,
    kinds_of,
    relations_of,
    sample_scene,
    scene_of,
)


def test_the_world_is_large_enough():
    assert len(KINDS) >= 20
    assert len(PLACES) == 10
    seen = {g.kind for i in range(1500) for g in scene_of("train", 0, i).groups}
    assert seen == set(KINDS)


def test_scenes_are_the_recorded_ones():
    # Stores made elsewhere must mean the same scenes; a change here is a new world.
    scene = scene_of("train", 0, 0)
    assert (scene.place, scene.main.kind, scene.main.colour, scene.main.count) == ("beach", "man", "pink", 1)
    scene = scene_of("test", 0, 5)
    assert (scene.place, scene.main.kind, scene.seed) == ("bathroom", "cat", 1745611500)


def test_held_out_combinations_occur_in_the_test_split_only():
    for split in ("train", "val", "clip", "clip_val"):
        assert not any(is_held_out(scene_of(split, 0, i)) for i in range(600)), split
    share = np.mean([is_held_out(scene_of("test", 0, i)) for i in range(600)])
    assert 0.2 < share < 0.45


def test_held_out_is_a_part_of_the_combinations_and_leaves_every_kind():
    colours = [held_out(k.name, c) for k in KINDS.values() for c in k.colours]
    places = [held_out(k, None, p) for p in PLACES for k in kinds_of(p)]
    assert 0.06 < np.mean(colours) < 0.18
    assert 0.04 < np.mean(places) < 0.15
    for kind in KINDS.values():
        assert not all(held_out(kind.name, c) for c in kind.colours)
    assert held_out("woman", "blue")
    assert not held_out("woman", "red")


def test_splits_share_no_scene():
    scenes = {split: {scene_of(split, 0, i) for i in range(400)} for split in SPLIT_CODES}
    for a in scenes:
        for b in scenes:
            assert a == b or not scenes[a] & scenes[b]


def test_relations_are_possible_ones():
    for i in range(500):
        scene = scene_of("train", 1, i)
        if scene.other is not None:
            assert scene.relation in relations_of(scene.main.kind, scene.other.kind)
            assert scene.main.kind != scene.other.kind
        assert all(g.kind in kinds_of(scene.place) for g in scene.groups)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'dev'"):
        scene_of("dev", 0, 0)
    with pytest.raises(ValueError, match="'dev'"):
        sample_scene(np.random.default_rng(0), "dev")
