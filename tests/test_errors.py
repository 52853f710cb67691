"""What messages are made of."""

import pytest

from synthcap_mm.errors import near


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("synthcap_mni", ["synthcap_mini", "synthcap_coco"]),
        ("SYNTHCAP_MINI", ["synthcap_mini", "synthcap_coco"]),
        ("nosuch", []),
        ("", []),
    ],
)
def test_near_names_are_those_that_one_may_have_meant(typed, meant):
    assert near(typed, ["pcmnet_loss_coco", "synthcap_coco", "synthcap_mini"]) == meant
