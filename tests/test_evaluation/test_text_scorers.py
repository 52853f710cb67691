import pytest

from synthcap_mm.evaluation import CaptionSet, build_scorers, score_set

CAPTIONS = CaptionSet({"x": "A dog and a dog.", "y": "a cat", "z": ""}, {key: ["a dog"] for key in "xyz"})


def test_by_hand():
    found = score_set(CAPTIONS, build_scorers(["length", "distinct", "vocabulary"]))
    # words: a dog and a dog a cat; pairs: a-dog dog-and and-a a-dog a-cat
    assert found.averages == {
        "length": pytest.approx(7 / 3),
        "distinct-1": pytest.approx(100 * 4 / 7),
        "distinct-2": pytest.approx(100 * 4 / 5),
        "vocabulary": 4,
    }
    assert found.per_image == {"x": {"length": 5}, "y": {"length": 2}, "z": {"length": 0}}
    assert "Li et al. 2016" in found.notes["distinct"]


def test_captions_without_words():
    nothing = CaptionSet({"x": ""}, {"x": ["a"]})
    assert score_set(nothing, build_scorers(["distinct"])).averages == {"distinct-1": 0, "distinct-2": 0}
