import pytest

from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.structures import Tag


class Toy(BaseTagProvider):
    def detect(self, images):
        return [self.keep([Tag(f"t{i}", i / 10) for i in range(10)]) for _ in images]


def test_keeps_the_best_above_the_floor():
    assert [tag.name for tag in Toy(max_tags=3, min_score=0.2).detect([None])[0]] == ["t9", "t8", "t7"]
    # a score equal to the floor is not above it
    assert [tag.name for tag in Toy(max_tags=9, min_score=0.7).detect([None])[0]] == ["t9", "t8"]
    provider = Toy()
    assert (provider.max_tags, provider.min_score) == (20, 0.05)
    assert provider.to("cpu") is provider
    with pytest.raises(TypeError, match="detect"):
        BaseTagProvider()
