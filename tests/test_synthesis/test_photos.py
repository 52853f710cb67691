"""Stores of photos."""

import os

import numpy as np
import pytest
from store_files import Stopped, files, new_files

from synthcap_mm.errors import UserError
from synthcap_mm.store import Store
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.run import Worker


def settings(tmp_path, **photos):
    return {
        "store": str(tmp_path / "photos"),
        "photos": {"type": "TinyPhotos", **photos},
        "encoder": {"type": "TinyEncoder"},
        "tag_provider": {"type": "TinyTagger"},
        "shard_size": 5,
    }


@pytest.fixture()
def photo_files(tmp_path, tiny):
    """Settings of a store of twelve files, in shards of five."""
    folder = tmp_path / "files"
    folder.mkdir()
    for i, picture in enumerate(tiny.TinyPainter().generate(["a red dog"] * 12, list(range(12)))):
        picture.save(folder / f"{i:02d}.png")
    photos = {"type": "PhotoFolder", "root": str(folder), "references": {"03.png": ["a dog"]}}
    return {**settings(tmp_path), "photos": photos}, folder


def test_photos_and_their_references_are_stored(tmp_path, tiny):
    kwargs = settings(tmp_path)
    assert PhotoStore(**kwargs).run() == {"photos": 12, "flagged": 0, "shards_made": 4, "shards_reused": 0}
    before = files(kwargs["store"])
    assert PhotoStore(**kwargs).run() == {"photos": 12, "flagged": 0, "shards_made": 0, "shards_reused": 4}
    assert files(kwargs["store"]) == before
    store, source = Store.open(kwargs["store"]), tiny.TinyPhotos()
    assert store.kind == "photos" and store.images.strings("key") == source.keys
    assert store.captions.strings("text") == [t for i in range(12) for t in source.references(i)]
    assert store.captions.strings("group") == [k for k in source.keys for _ in range(2)]
    features = tiny.TinyEncoder().encode_pil([source.load(i) for i in range(12)])
    np.testing.assert_allclose(store.images.features(), features.numpy(), atol=1e-3)
    assert store.encoder == tiny.TinyEncoder().fingerprint() and store.tags(4)


def test_photos_by_a_second_encoder(two_encoders, tiny_stores, tiny):
    store, source = Store.open(two_encoders[1]), tiny.TinyPhotos()
    assert files(tiny_stores[1]).items() <= files(two_encoders[1]).items()
    assert {*store.tables} == {"images", "image_features", "image_features/search", "tags", "texts"}
    other = tiny.TinyEncoder(dim=24, seed=7, name="other")
    features = other.encode_pil([source.load(i) for i in range(12)])
    np.testing.assert_allclose(store.image_features("search").features(), features.numpy(), atol=1e-3)
    assert store.other_encoders == {"search": other.fingerprint()}


def test_a_photo_that_does_not_decode_is_flagged(tmp_path):
    assert PhotoStore(**settings(tmp_path, broken=[7])).run()["flagged"] == 1
    assert Store.open(tmp_path / "photos").flagged() == {"photo 7.jpg": ["undecodable"]}


def test_names_that_are_not_utf8_are_stored_as_text(photo_files):
    kwargs, folder = photo_files
    (folder / "03.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    kwargs["photos"]["references"] = {r"caf\xe9.png": ["a dog"]}
    assert PhotoStore(**kwargs).run() == {"photos": 13, "flagged": 1, "shards_made": 4, "shards_reused": 0}
    store = Store.open(kwargs["store"])
    assert r"caf\xe9.png" in store.images.strings("key") and store.captions.strings("group") == [r"caf\xe9.png"]
    assert store.flagged() == {r"\xff.png": ["undecodable"]}
    assert PhotoStore(**kwargs).run()["shards_made"] == 0


def test_a_photo_that_was_replaced_costs_its_shard(photo_files):
    kwargs, folder = photo_files
    PhotoStore(**kwargs).run()
    before, old = files(kwargs["store"]), (folder / "06.png").read_bytes()
    (folder / "06.png").write_bytes((folder / "07.png").read_bytes())
    assert PhotoStore(**kwargs).run()["shards_made"] == 1
    assert new_files(kwargs["store"], before) == {"images": [1], "image_features": [1], "tags": [1]}
    features = Store.open(kwargs["store"]).images.features()
    np.testing.assert_array_equal(features[6], features[7])
    (folder / "06.png").write_bytes(old)
    assert PhotoStore(**kwargs).run()["shards_made"] == 0
    content = bytearray(old)
    content[-1] ^= 1  # of the last chunk's checksum: the same size, and the same pixels
    (folder / "06.png").write_bytes(content)
    assert PhotoStore(**kwargs).run()["shards_made"] == 1


def test_a_photo_more_and_other_references(photo_files):
    kwargs, folder = photo_files
    PhotoStore(**kwargs).run()
    before = files(kwargs["store"])
    (folder / "zz.png").write_bytes((folder / "00.png").read_bytes())
    kwargs["photos"]["references"] = {"03.png": ["a cat"]}
    PhotoStore(**kwargs).run()
    assert new_files(kwargs["store"], before) == {"images": [2], "image_features": [2], "tags": [2], "texts": [0]}
    store = Store.open(kwargs["store"])
    assert len(store.images) == 13 and store.captions.strings("text") == ["a cat"]


def test_a_photos_domain_is_stored_and_another_one_noticed(photo_files, tiny, monkeypatch):
    from synthcap_mm.datasets.photos import PhotoFolder

    kwargs, _ = photo_files
    for domain in ("near", "out"):
        monkeypatch.setattr(PhotoFolder, "domain", lambda self, index, name=domain: name if index % 2 else None)
        PhotoStore(**kwargs).run()
        assert Store.open(kwargs["store"]).images.strings("domain") == [None, domain] * 6


def test_tasks_and_an_interruption_make_no_difference(tmp_path, tiny, tiny_stores, monkeypatch):
    kwargs, detect, calls = settings(tmp_path), tiny.TinyTagger.detect, []

    def stopping(self, images):
        calls.append(1)
        if len(calls) == 2:
            raise Stopped
        return detect(self, images)

    monkeypatch.setattr(tiny.TinyTagger, "detect", stopping)
    with pytest.raises(Stopped):
        PhotoStore(**kwargs).run()
    for index in (1, 0):
        PhotoStore(**kwargs).run(Worker(index, 2, own_share_only=True))
    assert files(kwargs["store"]) == files(tiny_stores[1])
    assert Store.open(kwargs["store"]).view == Store.open(tiny_stores[1]).view


@pytest.mark.parametrize("option", ["shard_size", "image_batch"])
def test_impossible_settings_are_refused_by_name(tmp_path, option):
    with pytest.raises(UserError, match=option):
        PhotoStore(**{**settings(tmp_path), option: 0})


@pytest.mark.parametrize("part", ["encoder", "tag_provider"])
def test_models_that_cannot_be_built_leave_no_store(tmp_path, part):
    gone = {"type": "OpenCLIPBackbone", "model_name": "ViT-B-32-quickgelu", "pretrained": str(tmp_path / "gone.pt")}
    if part == "tag_provider":
        gone = {"type": "CLIPTagProvider", "encoder": gone, "vocabulary": ["cat", "dog"]}
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        PhotoStore(**{**settings(tmp_path), part: gone}).run()
    assert not list(tmp_path.iterdir())
