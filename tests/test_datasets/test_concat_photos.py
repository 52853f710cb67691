"""Several photo sources as one."""

import json

import pytest
from PIL import Image

from synthcap_mm.registry import DATASETS


def make_folder(root, names):
    root.mkdir()
    for shade, name in enumerate(names):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(root / name)
    (root / "captions.json").write_text(json.dumps({name: [f"this is {name}"] for name in names}))
    return {"type": "PhotoFolder", "root": str(root), "references": str(root / "captions.json")}


def test_keys_photos_and_references_follow_the_order_of_the_sources(tmp_path):
    parts = [make_folder(tmp_path / "b", ["2.png", "3.png"]), make_folder(tmp_path / "a", ["1.png"])]
    photos = DATASETS.build({"type": "ConcatPhotos", "sources": parts})
    assert photos.keys == ["2.png", "3.png", "1.png"]
    assert len(photos) == 3
    assert photos.load(1).getpixel((0, 0)) == (1, 0, 0)
    assert photos.references(2) == ["this is 1.png"]
    assert str(tmp_path / "a") in photos.describe() and str(tmp_path / "b") in photos.describe()


def test_a_pool_of_unlabelled_photos_has_no_captions(tmp_path):
    parts = [make_folder(tmp_path / "a", ["1.png"])]
    with_captions = DATASETS.build({"type": "ConcatPhotos", "sources": parts})
    without = DATASETS.build({"type": "ConcatPhotos", "sources": parts, "with_references": False})
    assert with_captions.references(0) and not without.references(0)
    assert with_captions.sha256() != without.sha256()


def test_a_key_in_two_sources_is_refused(tmp_path):
    parts = [make_folder(tmp_path / "a", ["1.png", "2.png"]), make_folder(tmp_path / "b", ["2.png"])]
    with pytest.raises(ValueError, match=r"1 photos of .*b have keys that .*a has too: 2\.png"):
        DATASETS.build({"type": "ConcatPhotos", "sources": parts})


def test_no_source_at_all_is_refused():
    with pytest.raises(ValueError, match="no photos in ConcatPhotos"):
        DATASETS.build({"type": "ConcatPhotos", "sources": []})
