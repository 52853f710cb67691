import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.models.tag_prompt import TagPrompt
from synthcap_mm.structures import Tag

TAGS = [
    Tag("dog", 0.9, (0, 0, 1, 1), 0.1),
    Tag("sofa", 0.5, (0, 0, 1, 1), 0.8),
    Tag("dog", 0.8, (0, 0, 1, 1), 0.3),
    Tag("cup", 0.2, (0, 0, 1, 1), 0.9),
    Tag("lamp", 0.31, (0, 0, 1, 1), 0.01),
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("score_area", ["sofa", "dog", "lamp"]),
        ("score", ["dog", "sofa", "lamp"]),
        ("area", ["sofa", "dog", "lamp"]),
    ],
)
def test_choice_is_by_order_above_the_threshold_and_distinct(order, expected):
    assert TagPrompt(order=order, min_score=0.3).choose(TAGS) == expected


def test_at_most_max_tags():
    assert TagPrompt(max_tags=1, min_score=0.0).choose(TAGS) == ["sofa"]


def test_drop_uses_the_given_chances():
    prompt = TagPrompt(drop=0.4, drop_all=0.1)
    assert prompt.thin(["a", "b"], [0.05, 0.9, 0.9]) == []
    assert prompt.thin(["a", "b"], [0.5, 0.3, 0.4]) == ["b"]
    assert TagPrompt(drop=0, drop_all=0).thin(["a", "b"], [0.0, 0.0, 0.0]) == ["a", "b"]


def test_words():
    assert TagPrompt().word(["dog", "sofa"]) == "There are dog, sofa in the image."
    assert TagPrompt().word([]) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [({"template": "objects:"}, r"\{tags\}"), ({"order": "size"}, "score_area"), ({"drop": 1.5}, "drop")],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        TagPrompt(**options)
