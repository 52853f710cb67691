import os

import numpy as np
import pytest
import torch

from synthcap_mm.miniscenes import MINICLIP_WEIGHTS, MINIDETECTOR_WEIGHTS
from synthcap_mm.miniscenes.detector import MiniScenesTagger
from synthcap_mm.miniscenes.measures import names_found
from synthcap_mm.miniscenes.painting import MiniScenesPainter, annotated_photograph, photograph
from synthcap_mm.miniscenes.scenes import held_out, scene_of
from synthcap_mm.miniscenes.sources import MiniScenesCaptions
from synthcap_mm.registry import MODELS


@pytest.fixture(scope="module")
def tagger():
    return MODELS.build({"type": "MiniScenesTagger"})


def test_with_the_mini_clip_it_is_small():
    assert os.path.getsize(MINIDETECTOR_WEIGHTS) + os.path.getsize(MINICLIP_WEIGHTS) <= 6_000_000


def test_it_finds_objects_on_photos_and_fewer_on_drawings(tagger):
    scenes = [scene_of("val", 0, i) for i in range(200)]
    on_photos = names_found(tagger, [photograph(s) for s in scenes], scenes)
    assert on_photos.kinds > 0.95
    assert on_photos.coloured > 0.9
    assert on_photos.right > 0.85
    painter, captions = MiniScenesPainter(), MiniScenesCaptions(200).read()
    drawn = [painter.plan(c.text, i)[1] for i, c in enumerate(captions)]
    on_drawings = names_found(tagger, painter.generate([c.text for c in captions], list(range(200))), drawn)
    assert 0.6 < on_drawings.coloured < on_photos.coloured


def test_it_can_name_combinations_that_it_never_saw(tagger):
    scenes = [scene_of("test", 0, i) for i in range(600)]
    alone = [s for s in scenes if s.other is None and held_out(s.main.kind, s.main.colour)]
    assert len(alone) > 10
    # Guessing among a kind's colours would give 0.2 at most.
    assert names_found(tagger, [photograph(s) for s in alone], alone).coloured > 0.3


def test_boxes_are_where_the_objects_are(tagger):
    overlaps = []
    for i in range(100):
        image, objects = annotated_photograph(scene_of("val", 3, i))
        for tag in tagger.detect([image])[0]:
            if tag.score < 0.3:
                continue
            x1, y1, x2, y2 = tag.box
            assert 0 <= x1 < x2 <= 64 and 0 <= y1 < y2 <= 64
            assert tag.area == pytest.approx((x2 - x1) * (y2 - y1) / 64**2)
            best = 0.0
            for _, _, (a1, b1, a2, b2) in objects:
                a1, b1, a2, b2 = (v * 64 for v in (a1, b1, a2, b2))
                both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                best = max(best, both / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both))
            overlaps.append(best)
    assert np.mean(overlaps) > 0.6


def test_batched_equals_single_and_other_sizes_are_scaled(tagger):
    images = [photograph(scene_of("val", 1, i)) for i in range(6)]
    together = tagger.detect(images)
    for image, tags in zip(images, together):
        (alone,) = tagger.detect([image])
        assert [t.name for t in alone] == [t.name for t in tags]
        assert [t.score for t in alone] == pytest.approx([t.score for t in tags], abs=1e-5)
    large = images[0].resize((128, 96))
    assert {t.name for t in tagger.detect([large])[0][:1]} == {together[0][0].name}
    assert max(t.box[2] for t in tagger.detect([large])[0]) > 64


def test_thresholds_and_weights(tagger):
    image = photograph(scene_of("val", 1, 0))
    assert len(MiniScenesTagger(max_tags=1, min_score=0.3).detect([image])[0]) == 1
    with pytest.raises(FileNotFoundError, match="no/such"):
        MiniScenesTagger("no/such.safetensors")


def test_an_untrained_detector_finds_nothing_like_it(tagger):
    scenes = [scene_of("val", 0, i) for i in range(50)]
    blank = MiniScenesTagger()
    torch.manual_seed(0)
    blank.model = type(blank.model)().eval()
    hits = np.mean([bool(tags) for tags in blank.detect([photograph(s) for s in scenes])])
    assert hits < 0.2
