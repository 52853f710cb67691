import pytest

from synthcap_mm.evaluation import MiniScenesMetric, object_errors
from synthcap_mm.miniscenes.language import NOUNS, kinds_named
from synthcap_mm.miniscenes.scenes import scene_of
from synthcap_mm.miniscenes.sources import MiniScenesPhotos
from synthcap_mm.structures import CaptionSample


def test_every_word_of_a_kind_names_it():
    for kind, nouns in NOUNS.items():
        for one, many, _ in nouns:
            assert kinds_named(f"A {one}.") == kinds_named(f"three {many}!") == {kind}
    assert kinds_named("a table lamp next to a bed") == {"lamp"}
    assert kinds_named("a cat and two kittens on a desk") == {"cat", "table"}
    assert kinds_named("nothing here") == set()


def test_counts_by_hand():
    references = {"a": ["a dog next to a car"], "b": ["a cat"], "c": ["two boats", "a boat and a man"]}
    predictions = {"a": "a puppy and a bus", "b": "something", "c": "a man with a red kite near a sailboat"}
    averages, each = object_errors(predictions, references)
    # named 2 + 0 + 3 of which wrong 1 + 0 + 1; there 2 + 1 + 2 of which missed 1 + 1 + 0
    assert averages == pytest.approx({"CHAIR_s": 200 / 3, "CHAIR_i": 40.0, "missed": 40.0})
    assert each["a"] == {"CHAIR_s": 100.0, "CHAIR_i": 50.0, "missed": 50.0}
    assert each["b"] == {"CHAIR_s": 0.0, "CHAIR_i": 0.0, "missed": 100.0}
    assert each["c"]["CHAIR_i"] == pytest.approx(100 / 3) and each["c"]["missed"] == 0.0
    with pytest.raises(ValueError, match="no captions"):
        object_errors({}, {})


def test_of_a_photo_the_scene_tells_and_no_reference_names_what_is_not_there():
    photos = MiniScenesPhotos("test", num=100)
    for j in range(5):
        predictions = {photos.keys[i]: photos.references(i)[j] for i in range(100)}
        averages, _ = object_errors(predictions, {key: [] for key in predictions})
        assert averages["CHAIR_s"] == averages["CHAIR_i"] == 0.0
        assert 3 < averages["missed"] < 15  # people leave things out
    kinds = {g.kind for g in scene_of("test", 0, 3).groups}
    wrong = next(kind for kind in NOUNS if kind not in kinds)
    averages, _ = object_errors({"test-0-000003": f"a {NOUNS[wrong][0][0]}"}, {"test-0-000003": []})
    assert averages == {"CHAIR_s": 100.0, "CHAIR_i": 100.0, "missed": 100.0}


def test_the_metric_adds_them():
    metric = MiniScenesMetric()
    metric.dataset_meta = None
    samples = [CaptionSample(i, k, pred_caption=p, references=[r])
               for i, (k, p, r) in enumerate([("x", "a dog", "a dog on the beach"), ("y", "a cat", "a bird in the air")])]  # fmt: skip
    metric.process(None, samples)
    found = metric.evaluate(2)
    assert found["CHAIR_s"] == found["CHAIR_i"] == found["missed"] == 50.0 and found["BLEU-1"] > 0
