import pytest

from synthcap_mm.evaluation import CaptionMetric, CaptionSet, build_scorers, score_set
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


def errors(predictions, references):
    found = score_set(CaptionSet(predictions, references), build_scorers(["ObjectErrors"]))
    return found.averages, found.per_image


def test_counts_by_hand():
    references = {"a": ["a dog next to a car"], "b": ["a cat"], "c": ["two boats", "a boat and a man"]}
    predictions = {"a": "a puppy and a bus", "b": "something", "c": "a man with a red kite near a sailboat"}
    averages, each = errors(predictions, references)
    # named 2 + 0 + 3 of which wrong 1 + 0 + 1; there 2 + 1 + 2 of which missed 1 + 1 + 0
    assert averages == pytest.approx({"ObjectErrors-s": 200 / 3, "ObjectErrors-i": 40.0, "ObjectErrors-missed": 40.0})
    assert each["a"] == {"ObjectErrors-s": 100.0, "ObjectErrors-i": 50.0, "ObjectErrors-missed": 50.0}
    assert each["b"] == {"ObjectErrors-s": 0.0, "ObjectErrors-missed": 100.0}  # nothing named: no share of it
    assert each["c"]["ObjectErrors-i"] == pytest.approx(100 / 3) and each["c"]["ObjectErrors-missed"] == 0.0


def test_of_a_photo_the_scene_tells_and_no_reference_names_what_is_not_there():
    photos = MiniScenesPhotos("test", num=100)
    unsaid = {key: ["nothing is said here"] for key in photos.keys[:100]}
    for j in range(5):
        averages, _ = errors({photos.keys[i]: photos.references(i)[j] for i in range(100)}, unsaid)
        assert averages["ObjectErrors-s"] == averages["ObjectErrors-i"] == 0.0
        assert 3 < averages["ObjectErrors-missed"] < 15  # people leave things out
    kinds = {g.kind for g in scene_of("test", 0, 3).groups}
    wrong = next(kind for kind in NOUNS if kind not in kinds)
    averages, _ = errors({"test-0-000003": f"a {NOUNS[wrong][0][0]}"}, {"test-0-000003": ["nothing"]})
    assert set(averages.values()) == {100.0}


def test_the_metric_has_them_by_name():
    metric = CaptionMetric(["BLEU", "ObjectErrors"])
    metric.dataset_meta = None
    samples = [
        CaptionSample(0, "x", pred_caption="a dog", references=["a dog on the beach"]),
        CaptionSample(1, "y", pred_caption="a cat", references=["a bird in the air"]),
    ]
    metric.process(None, samples)
    found = metric.evaluate(2)
    assert found["ObjectErrors-s"] == found["ObjectErrors-i"] == found["ObjectErrors-missed"] == 50.0
    assert found["BLEU-1"] > 0
