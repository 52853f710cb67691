"""How far a caption names the tags of its image."""

import pytest

from synthcap_mm.models.ranking.tag_agreement import tag_agreement


@pytest.mark.parametrize(
    ("caption", "tags", "share"),
    [
        ("a red chair next to a gray dog", ["gray dog", "red chair"], 1.0),
        ("a red chair next to a red chair", ["gray dog", "red chair"], 0.5),
        ("a brown dog next to a red chair", ["gray dog", "red chair"], 0.75),
        ("Two Gray Dogs on the beach.", ["gray dog"], 1.0),
        ("a man in a white shirt", ["man in white"], 1.0),
        ("a red dog and a blue chair", ["red chair"], 0.5),  # its words are named, of two things
        ("a group of people on a bench", ["person"], 1.0),
        ("the catalogue of a bushy garden", ["cat", "bus"], 0.0),
        ("a dog", [], 0.0),
        ("", ["dog"], 0.0),
    ],
)
def test_share_of_tags_that_a_caption_names(caption, tags, share):
    assert tag_agreement(caption, tags) == pytest.approx(share)


def test_the_best_of_a_tags_other_names_counts():
    aliases = {"person": ["man", "woman"]}
    assert tag_agreement("two women and a dog", ["person", "dog"], aliases) == 1.0
    assert tag_agreement("two women and a dog", ["person", "dog"]) == 0.5
