import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.models.tag_prompt import TagPrompt
from synthcap_mm.structures import Tag

BOX = (0, 0, 1, 1)
TAGS = [Tag("dog", 0.9, BOX, 0.1), Tag("sofa", 0.5, BOX, 0.8), Tag("dog", 0.8, BOX, 0.3), Tag("cup", 0.2, BOX, 0.9),
        Tag("lamp", 0.31, BOX, 0.01)]  # fmt: skip


def test_choice_is_by_order_above_the_threshold_and_distinct():
    for order, expected in (("score_area", "sofa dog lamp"), ("score", "dog sofa lamp"), ("area", "sofa dog lamp")):
        assert TagPrompt(order=order, min_score=0.3).choose(TAGS) == expected.split()
    assert TagPrompt(max_tags=1, min_score=0.0).choose(TAGS) == ["sofa"]


def test_drop_uses_the_given_chances():
    prompt = TagPrompt(drop=0.4, drop_all=0.1)
    assert prompt.thin(["a", "b"], [0.05, 0.9, 0.9]) == []
    assert prompt.thin(["a", "b"], [0.5, 0.3, 0.4]) == ["b"]
    assert TagPrompt(drop=0, drop_all=0).thin(["a", "b"], [0.0, 0.0, 0.0]) == ["a", "b"]


def test_words():
    assert TagPrompt().word(["dog", "sofa"]) == "There are dog, sofa in the image."
    assert TagPrompt().word([]) == ""
    wrong = [{"template": text} for text in ("objects:", "{tags}{tags}", "{tags}" + "a" * 500)]
    for options in (*wrong, {"max_tags": 1001}, {"order": "size"}, {"drop": 1.5}):
        with pytest.raises(UserError, match=next(iter(options))):
            TagPrompt(**options)


def test_a_name_is_cut():
    long, short = "a b " * 1000, "x" * 100
    assert TagPrompt(template="{tags}").word([long, short]) == f"{long[:100]}, {short}"


def test_a_template_is_no_format():
    template = "{tags:>999999999} {tags.__class__} {0} {tags}"
    assert TagPrompt(template=template).word(["dog"]) == "{tags:>999999999} {tags.__class__} {0} dog"
