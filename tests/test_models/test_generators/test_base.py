import pytest

from synthcap_mm.models.generators.base import BaseGenerator, check_seeds


def test_contract():
    class Half(BaseGenerator):
        pass

    with pytest.raises(TypeError, match="generate"):
        Half()

    class Whole(BaseGenerator):
        def generate(self, captions, seeds):
            check_seeds(captions, seeds)
            return captions

    generator = Whole()
    assert not generator.retrieves and generator.to("cpu") is generator
    assert generator.generate(["a"], [1]) == ["a"]
    with pytest.raises(ValueError, match="1 captions, but 2 seeds"):
        generator.generate(["a"], [1, 2])
