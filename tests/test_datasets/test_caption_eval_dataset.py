"""Real photos as an evaluation gets them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from synthcap_mm.datasets import CaptionEvalDataset, caption_eval_dataset
from synthcap_mm.errors import UserError
from synthcap_mm.store import Store, StoreError
from synthcap_mm.synthesis.photos import PhotoStore


@pytest.fixture()
def broken(tmp_path, tiny):
    """A store of 12 photos, two of which do not decode."""
    photos = {"type": "TinyPhotos", "broken": [2, 7]}
    PhotoStore(str(tmp_path / "photos"), photos, {"type": "TinyEncoder"}, {"type": "TinyTagger"}, shard_size=5).run()
    return str(tmp_path / "photos")


def test_photos_come_with_tags_and_references(tiny_stores, tiny):
    dataset, source = CaptionEvalDataset(tiny_stores[1]), tiny.TinyPhotos()
    store = Store.open(tiny_stores[1])
    assert len(dataset) == 12 and dataset.metainfo["missing"] == 0 and dataset.metainfo["wordless"] == []
    for i in (0, 5, 11):
        sample = dataset[i]
        assert sample.key == source.keys[i] and sample.source == "real"
        assert sample.references == source.references(i)
        assert sample.tags == store.tags(i) and sample.tags
        assert sample.caption is None and sample.memory_row == -1
        assert sample.feat.dtype == torch.float32
        np.testing.assert_allclose(sample.feat.norm(), 1, atol=1e-6)


def test_photos_have_the_features_of_all_encoders(two_encoders):
    sample, store = CaptionEvalDataset(two_encoders[1])[3], Store.open(two_encoders[1])
    feature = store.image_features("search").feature(3).astype(np.float32)
    np.testing.assert_allclose(sample.other_feats["search"], feature / np.linalg.norm(feature), rtol=1e-6)
    assert sample.other_text_feats == {}


def test_photos_that_do_not_decode_are_refused_by_name_or_counted(broken, monkeypatch):
    with pytest.raises(StoreError) as caught:
        CaptionEvalDataset(broken)
    for part in ("photo 2.jpg", "photo 7.jpg", "allow_missing", broken):
        assert part in str(caught.value)
    said = []
    monkeypatch.setattr(caption_eval_dataset, "print_log", lambda message, **kwargs: said.append(message))
    dataset = CaptionEvalDataset(broken, allow_missing=True)
    assert len(dataset) == 10 and dataset.metainfo["missing"] == 2
    assert [dataset[i].key for i in (1, 2, 6)] == ["photo 1.jpg", "photo 3.jpg", "photo 8.jpg"]
    assert len(said) == 1 and "2 of 12 photos" in said[0]


def test_nothing_to_score_is_refused(tmp_path, tiny_stores):
    path = str(tmp_path / "photos")
    PhotoStore(path, {"type": "TinyPhotos", "num": 3, "broken": [0, 1, 2]}, {"type": "TinyEncoder"}).run()
    for store in (path, tiny_stores[0], str(tmp_path / "none")):  # none decodes; of pairs; none at all
        with pytest.raises(StoreError, match=store):
            CaptionEvalDataset(store, allow_missing=True)


def test_photos_without_references_have_none(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(tiny.TinyPhotos, "references", lambda self, i: [])
    path = str(tmp_path / "photos")
    PhotoStore(path, {"type": "TinyPhotos"}, {"type": "TinyEncoder"}).run()
    dataset = CaptionEvalDataset(path)
    assert dataset[4].references == [] and dataset[4].tags == []
    assert dataset.metainfo["wordless"] == dataset.metainfo["keys"]  # no metric can score them


# ---- photos as they are
@pytest.fixture()
def coco(tmp_path, tiny):
    """Config of 12 photos with two references each, in COCO's format."""
    source, folder = tiny.TinyPhotos(), tmp_path / "jpg"
    folder.mkdir()
    images, annotations = [], []
    for i in range(len(source)):
        name = f"photo {i}.png"
        source.load(i).save(folder / name)
        images.append({"id": i, "file_name": name})
        for text in source.references(i):
            annotations.append({"id": len(annotations), "image_id": i, "caption": text})
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}))
    return {"type": "CocoPhotos", "ann_file": str(file), "image_root": str(folder)}


def test_photos_of_a_coco_json_come_as_images(coco, tiny):
    dataset, source = CaptionEvalDataset(photos=coco), tiny.TinyPhotos()
    assert len(dataset) == 12 and dataset.store is None
    assert dataset.metainfo["keys"] == [f"photo {i}.png" for i in range(12)]
    assert dataset.metainfo["wordless"] == []
    sample = dataset[5]
    assert np.array_equal(np.asarray(sample.image), np.asarray(source.load(5)))
    assert (sample.key, sample.source, sample.feat) == ("photo 5.png", "real", None)
    assert sample.references == source.references(5) and sample.tags == []


def test_domains_come_from_the_json_and_through_a_store(coco, tmp_path):
    assert {sample.domain for sample in CaptionEvalDataset(photos=coco)} == {None}
    file = Path(coco["ann_file"])
    content = json.loads(file.read_text())
    expected = ["in-domain" if i % 3 else "out-domain" for i in range(12)]
    for image, domain in zip(content["images"], expected):
        image["domain"] = domain
    file.write_text(json.dumps(content))
    assert [sample.domain for sample in CaptionEvalDataset(photos=coco)] == expected
    store = str(tmp_path / "store")
    PhotoStore(store, coco, {"type": "TinyEncoder"}, shard_size=5).run()
    assert [sample.domain for sample in CaptionEvalDataset(store)] == expected
    several = {"type": "ConcatPhotos", "sources": [{**coco, "domain": d} for d in ("in-domain", "out-domain")]}
    assert [s.domain for s in CaptionEvalDataset(photos=several)] == sorted(expected)


def test_a_photo_that_does_not_decode_is_refused_by_name_or_counted(coco, tmp_path, monkeypatch):
    (tmp_path / "jpg" / "photo 7.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"photo 7\.png.*allow_missing"):
        CaptionEvalDataset(photos=coco)[7]
    said = []
    monkeypatch.setattr(caption_eval_dataset, "print_log", lambda message, **kwargs: said.append(message))
    dataset = CaptionEvalDataset(photos=coco, allow_missing=True)
    assert len(dataset) == 11 and dataset.metainfo["missing"] == 1 and dataset[7].key == "photo 8.png"
    assert "photo 7.png" not in dataset.metainfo["keys"]
    assert len(said) == 1 and "1 of 12 photos" in said[0] and "photo 7.png" in said[0]
    for i in range(12):
        (tmp_path / "jpg" / f"photo {i}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="12 of 12"):
        CaptionEvalDataset(photos=coco, allow_missing=True)


@pytest.mark.parametrize("given", [{}, {"store": "s", "photos": {"type": "TinyPhotos"}}])
def test_a_store_or_photos_and_not_both(given):
    with pytest.raises(UserError, match=r"store=.*photos="):
        CaptionEvalDataset(**given)
