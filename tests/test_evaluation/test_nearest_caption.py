"""The floor: each photo's nearest training caption."""

import numpy as np
import pytest
import torch
from random_store import make_store

from synthcap_mm.evaluation import nearest_captions
from synthcap_mm.store import Store
from synthcap_mm.structures import CaptionSample


@pytest.fixture()
def store(tmp_path):
    return make_store(tmp_path / "pairs", captions=50, heldout=(3, 7, 11))


def photos_of(store, rows, scale=1.0):
    features = torch.from_numpy(store.caption_features(rows)).float() * scale
    return [CaptionSample(i, f"photo {row}", feat=feature) for i, (row, feature) in enumerate(zip(rows, features))]


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_it_is_the_nearest_of_those_that_are_not_held_out(store, block_size):
    opened = Store.open(store)
    photos = photos_of(opened, range(50), scale=3.0)
    found = nearest_captions(store, photos, block_size)
    rows = opened.caption_rows("train")
    assert len(rows) < 50
    memory = opened.caption_features(rows).astype(np.float64)
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    for photo in photos:
        best = int(rows[(memory @ photo.feat.numpy().astype(np.float64)).argmax()])
        assert found[photo.key] == opened.captions.value("text", best)
    assert found["photo 0"] == "caption number 0" and found["photo 3"] != "caption number 3"


def test_what_cannot_be_answered_is_refused(store):
    assert nearest_captions(store, []) == {}
    with pytest.raises(ValueError, match="1 photos have no feature, the first is b"):
        nearest_captions(store, [*photos_of(Store.open(store), [0]), CaptionSample(1, "b")])
