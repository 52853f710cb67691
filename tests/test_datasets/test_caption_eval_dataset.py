"""Real photos as an evaluation gets them."""

import numpy as np
import pytest
import torch

from synthcap_mm.datasets import CaptionEvalDataset
from synthcap_mm.pairs import encode_photos
from synthcap_mm.stores import Store, StoreError, StoreMissingError


@pytest.fixture()
def broken(tmp_path, tiny):
    """A store of 12 photos, two of which do not decode."""
    encode_photos(
        str(tmp_path / "photos"),
        {"type": "TinyPhotos", "broken": [2, 7]},
        {"type": "TinyEncoder"},
        {"type": "TinyTagger"},
        shard_size=5,
    )
    return str(tmp_path / "photos")


def test_photos_come_with_tags_and_references(tiny_stores, tiny):
    dataset, source = CaptionEvalDataset(tiny_stores[1]), tiny.TinyPhotos()
    store = Store.open(tiny_stores[1])
    assert len(dataset) == 12 and dataset.metainfo["missing"] == 0
    for i in (0, 5, 11):
        sample = dataset[i]
        assert sample.key == source.keys[i] and sample.source == "real"
        assert sample.references == source.references(i)
        assert sample.tags == store.tags(i) and sample.tags
        assert sample.caption is None and sample.memory_row == -1
        assert sample.feat.dtype == torch.float32
        np.testing.assert_allclose(sample.feat.norm(), 1, atol=1e-6)


def test_photos_that_do_not_decode_are_refused_by_name(broken):
    with pytest.raises(StoreError) as caught:
        CaptionEvalDataset(broken)
    for part in ("2 of 12 photos", "photo 2.jpg", "photo 7.jpg", "allow_missing=True", broken):
        assert part in str(caught.value)


def test_allowed_to_be_missing_they_are_counted_and_said(broken, monkeypatch):
    import mmengine.logging

    said = []
    monkeypatch.setattr(mmengine.logging, "print_log", lambda message, **kwargs: said.append(message))
    dataset = CaptionEvalDataset(broken, allow_missing=True)
    assert len(dataset) == 10 and dataset.metainfo["missing"] == 2
    assert [dataset[i].key for i in (1, 2, 6)] == ["photo 1.jpg", "photo 3.jpg", "photo 8.jpg"]
    assert len(said) == 1 and "2 of 12 photos" in said[0]


def test_nothing_left_is_an_error(tmp_path, tiny):
    path = str(tmp_path / "photos")
    encode_photos(path, {"type": "TinyPhotos", "num": 3, "broken": [0, 1, 2]}, {"type": "TinyEncoder"})
    with pytest.raises(StoreError, match="None is left"):
        CaptionEvalDataset(path, allow_missing=True)


def test_photos_without_references_have_none(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(tiny.TinyPhotos, "references", lambda self, i: [])
    path = str(tmp_path / "photos")
    encode_photos(path, {"type": "TinyPhotos"}, {"type": "TinyEncoder"})
    sample = CaptionEvalDataset(path)[4]
    assert sample.references == [] and sample.tags == []


def test_a_store_of_pairs_is_no_set_of_photos(tiny_stores):
    with pytest.raises(StoreError, match=r"not photos.*heldout"):
        CaptionEvalDataset(tiny_stores[0])


def test_a_missing_store_names_the_command(tmp_path):
    with pytest.raises(StoreMissingError, match=r"tools/encode_images.py"):
        CaptionEvalDataset(str(tmp_path / "none"))
