import json

import numpy as np
import pytest

from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder


def make(name="one", seed=0, dim=8):
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, dim))
    return {"name": name, "image": image.tolist(), "text": text.tolist()}


def test_the_same_whatever_name_and_length():
    first, second = make("one"), make("two")
    second["image"] = (np.array(second["image"]) * 3 + 1e-4).tolist()
    assert same_encoder(first, json.loads(json.dumps(second)))
    assert describe_mismatch(first, second) == "'one' and 'two' are the same encoder"


@pytest.mark.parametrize("part", ["image", "text"])
def test_either_part_decides(part):
    first, second = make("one"), make("two")
    vector = np.array(first[part])
    other = np.roll(vector, 1) - vector * (np.roll(vector, 1) @ vector) / (vector @ vector)
    other *= np.linalg.norm(vector) / np.linalg.norm(other)
    for cosine, same in ((0.9995, True), (0.9985, False)):
        second[part] = (cosine * vector + np.sqrt(1 - cosine**2) * other).tolist()
        assert same_encoder(first, second) is same
    message = describe_mismatch(first, second)
    assert "'one'" in message and "'two'" in message and f"{part} features with cosine 0.9985" in message


def test_other_widths_zero_and_nan():
    assert not same_encoder(make(), make(dim=9))
    assert "8 and 9 numbers" in describe_mismatch(make(), make(dim=9))
    for value in (0.0, float("nan")):
        broken = {**make(), "text": [value] * 8}
        assert not same_encoder(make(), broken) and not same_encoder(broken, broken)
        assert "zero or not finite" in describe_mismatch(make(), broken)


def test_incomplete_fingerprint():
    with pytest.raises(ValueError, match="fingerprint of 'one' has no field 'text'"):
        same_encoder(make(), {"name": "one", "image": make()["image"]})
