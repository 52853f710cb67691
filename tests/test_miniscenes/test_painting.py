import subprocess
import sys

import numpy as np
import pytest

from synthcap_mm.miniscenes.language import describe, parse
from synthcap_mm.miniscenes.painting import MiniScenesPainter, annotated_photograph, draw, photograph
from synthcap_mm.miniscenes.scenes import Group, Scene, scene_of, scene_rng


def captions_of(number, split="train"):
    return [describe(scene_of(split, 0, i), scene_rng(split, 0, i, 1)) for i in range(number)]


def pixels(image):
    return np.asarray(image)


def test_the_painter_is_deterministic_and_its_seed_matters():
    captions = captions_of(12)
    one = MiniScenesPainter().generate(captions, list(range(12)))
    alone = [MiniScenesPainter().generate([c], [i])[0] for i, c in enumerate(captions)]
    other = MiniScenesPainter().generate(captions, list(range(100, 112)))
    assert all(i.size == (64, 64) and i.mode == "RGB" for i in one)
    assert all((pixels(a) == pixels(b)).all() for a, b in zip(one, alone))
    assert all((pixels(a) != pixels(b)).any() for a, b in zip(one, other))


def test_the_painter_sees_text_only(tmp_path):
    captions = captions_of(6)
    expected = [i.tobytes() for i in MiniScenesPainter().generate(captions, list(range(6)))]
    (tmp_path / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    # Another process, in which there is no way to a scene but through the text.
    script = """
import sys, hashlib
import synthcap_mm.miniscenes.scenes as scenes
from synthcap_mm.miniscenes.painting import MiniScenesPainter
for name in ('scene_of', 'sample_scene', 'scene_rng', 'sample_group', '_draft', 'SPLIT_CODES'):
    delattr(scenes, name)
captions = open(sys.argv[1], encoding='utf-8').read().split('\\n')
images = MiniScenesPainter().generate(captions, list(range(len(captions))))
print(hashlib.sha256(b''.join(i.tobytes() for i in images)).hexdigest())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "captions.txt")], capture_output=True, text=True, check=True
    )
    import hashlib

    assert done.stdout.strip() == hashlib.sha256(b"".join(expected)).hexdigest()


def test_it_errs_at_the_stated_rates():
    painter = MiniScenesPainter(drop=0.2, recolour=0.15, miscount=0.1)
    pairs = dropped = groups = recoloured = miscounted = 0
    for seed, caption in enumerate(captions_of(3000)):
        meant, drawn = painter.plan(caption, seed)
        both = meant.other is not None
        pairs += both
        dropped += both and drawn.other is None
        left = {g.kind: g for g in drawn.groups}
        for group in meant.groups:
            if group.kind in left:
                groups += 1
                recoloured += left[group.kind].colour != group.colour
                miscounted += left[group.kind].count != group.count
                assert abs(left[group.kind].count - group.count) <= 1
    for hits, total, rate in ((dropped, pairs, 0.2), (recoloured, groups, 0.15), (miscounted, groups, 0.1)):
        assert abs(hits / total - rate) < 4 * np.sqrt(rate * (1 - rate) / total), (hits, total, rate)


def test_without_errors_it_draws_what_it_understood():
    painter = MiniScenesPainter(drop=0, recolour=0, miscount=0)
    for seed, caption in enumerate(captions_of(50)):
        meant, drawn = painter.plan(caption, seed)
        assert meant == drawn
        said = parse(caption)
        assert {g.kind for g in drawn.groups} == {g.kind for g in said.groups}
        assert said.place in (None, drawn.place)


def test_colours_can_be_seen_in_both_looks():
    for look in (photograph, draw):
        for colour, channel in (("red", 0), ("blue", 2)):
            scene = Scene("field", Group("ball", colour, "large", 1), None, None, "day", 4)
            plain = Scene("field", Group("ball", "white", "large", 1), None, None, "day", 4)
            difference = pixels(look(plain)).astype(int) - pixels(look(scene)).astype(int)
            lost = difference.reshape(-1, 3).sum(0)
            assert lost.argmin() == channel


def test_photos_are_noisy_and_drawings_are_clean():
    def grain(image):
        grey = pixels(image.convert("L")).astype(float)
        return np.median(np.abs(np.diff(grey, axis=1)))

    scenes = [scene_of("val", 0, i) for i in range(20)]
    assert np.mean([grain(draw(s)) for s in scenes]) < 0.5
    assert np.mean([grain(photograph(s)) for s in scenes]) > 2


def test_a_photo_is_annotated_where_its_objects_are():
    for seed in range(20):
        scene = Scene("snow", Group("ball", "red", "large", 1), None, None, "day", seed)
        image, objects = annotated_photograph(scene)
        assert (pixels(image) == pixels(photograph(scene))).all()
        ((kind, colour, (x1, y1, x2, y2)),) = objects
        assert (kind, colour) == ("ball", "red")
        # The red pixels are in the box, and their middle is the box's.
        red = pixels(image).astype(int)
        rows, columns = np.nonzero(red[..., 0] - red[..., 1:].max(-1) > 60)
        assert abs((columns.mean() + 0.5) / 64 - (x1 + x2) / 2) < 0.03
        assert abs((rows.mean() + 0.5) / 64 - (y1 + y2) / 2) < 0.08
        inside = (columns / 64 > x1 - 0.05) & (columns / 64 < x2 + 0.05) & (rows / 64 > y1 - 0.05)
        assert inside.mean() > 0.95
        assert min(x1, y1) >= 0 and max(x2, y2) <= 1
    two = scene_of("train", 0, 3)
    assert len(annotated_photograph(two)[1]) == sum(g.count for g in two.groups)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="seeds"):
        MiniScenesPainter().generate(["a dog", "a cat"], [1])
    with pytest.raises(ValueError, match="a unicorn"):
        MiniScenesPainter().generate(["a unicorn"], [1])
