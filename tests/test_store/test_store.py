"""Reading a store."""

import json
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from synthcap_mm.store import Store, StoreError, StoreWriter, shards
from synthcap_mm.store.schema import captions_table
from synthcap_mm.store.store import ShardedTable


@pytest.fixture()
def pairs(tiny_stores, tmp_path):
    """A copy of the tiny store, to be damaged."""
    return shutil.copytree(tiny_stores[0], tmp_path / "copy")


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


# ---- refusals
def test_a_missing_store_is_told_with_the_command(tmp_path):
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "nowhere")
    assert "tools/synthesize.py CONFIG" in str(caught.value)
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_an_unfinished_store_is_told(pairs):
    manifest = json.loads((pairs / "manifest.json").read_text())
    (pairs / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(StoreError, match=r"not finished.*synthesize"):
        Store.open(pairs)


def test_a_missing_shard_is_named(pairs):
    (pairs / "images" / "00001.arrow").unlink()
    with pytest.raises(StoreError, match=r"images/00001\.arrow is missing"):
        Store.open(pairs)


def test_a_truncated_shard_is_named(pairs):
    path = pairs / "refined" / "default" / "00002.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"refined/default/00002\.arrow is damaged"):
        Store.open(pairs)


def test_a_flipped_bit_is_found_when_its_table_is_used(pairs):
    flip(pairs / "captions" / "00000.arrow")
    with pytest.raises(StoreError, match=r"captions/00000\.arrow is damaged \(its checksum.*tools/synthesize\.py"):
        Store.open(pairs, verify="full")
    store = Store.open(pairs)
    assert len(store.images) == 40  # another table
    for _ in range(2):  # and it is not forgotten
        with pytest.raises(StoreError, match=r"captions/00000\.arrow is damaged \(its checksum"):
            store.caption_rows()
    assert len(Store.open(pairs, verify="size").captions) == 40


def test_checksums_are_compared_once_in_a_process_and_again_after_a_change(pairs, monkeypatch):
    compared = []
    original = shards.file_sha256
    monkeypatch.setattr(shards, "file_sha256", lambda path: compared.append(Path(path).name) or original(path))
    for _ in range(2):
        assert len(Store.open(pairs).images) == 40
    assert compared == ["00000.arrow", "00001.arrow", "00002.arrow"]
    assert len(pickle.loads(pickle.dumps(Store.open(pairs))).captions) == 40  # nor again in a worker
    assert len(compared) == 3
    flip(pairs / "images" / "00001.arrow")
    with pytest.raises(StoreError, match=r"images/00001\.arrow"):
        Store.open(pairs).flagged()


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_the_tokenizer_is_checked_always(pairs, damage):
    path = pairs / "tokenizer.json"
    flip(path) if damage == "flip" else path.unlink()
    with pytest.raises(StoreError, match=r"tokenizer\.json is"):
        Store.open(pairs)


def test_a_newer_schema_says_to_update(pairs):
    manifest = json.loads((pairs / "manifest.json").read_text())
    (pairs / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 2}))
    with pytest.raises(StoreError, match="pip install -U"):
        Store.open(pairs)


@pytest.mark.parametrize("content", ["{", "{}", "3"])
def test_a_broken_manifest_is_named(pairs, content):
    (pairs / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest.json is not a store's manifest"):
        Store.open(pairs)


def test_unknown_checks_tables_and_splits_are_refused(tiny_stores):
    with pytest.raises(ValueError, match="verify"):
        Store.open(tiny_stores[0], verify="never")
    store = Store.open(tiny_stores[0])
    with pytest.raises(StoreError, match=r"pairs/curated.*captions.*pairs/default"):
        store.pairs("curated")
    with pytest.raises(ValueError, match="split"):
        store.caption_rows("val")


def test_another_encoder_is_refused_with_both_names(tiny_stores, tiny):
    store = Store.open(tiny_stores[0])
    store.check_encoder(tiny.TinyEncoder().fingerprint())
    with pytest.raises(StoreError) as caught:
        store.check_encoder(tiny.TinyEncoder(seed=1, name="other").fingerprint(), "the demo's")
    for part in ("'tiny'", "'other'", "the demo's", str(store.path)):
        assert part in str(caught.value)


def test_a_store_without_tokenizer_says_so(tiny_stores):
    with pytest.raises(StoreError, match="tokenizer"):
        Store.open(tiny_stores[1]).tokenizer_path  # noqa: B018


# ---- rows
def test_rows_are_numbered_over_shards(tiny_stores, tiny):
    store = Store.open(tiny_stores[0])
    captions = tiny.sentences(40)
    assert len(store.captions) == 40 and len(store.manifest["tables"]["captions"]["shards"]) == 3
    for row in (0, 15, 16, 31, 32, 39):
        assert store.captions.value("id", row) == captions[row].id
        assert store.captions.value("text", row) == captions[row].text
        np.testing.assert_array_equal(store.captions.feature(row), store.captions.features()[row])
    assert store.captions.strings("id") == [c.id for c in captions]
    rows = np.array([39, 0, 16, 16, 15])
    np.testing.assert_array_equal(store.captions.features(rows), store.captions.features()[rows])
    assert store.captions.features(np.array([], int)).shape == (0, 32)


@pytest.mark.parametrize("row", [-1, 40])
def test_rows_outside_are_refused(tiny_stores, row):
    table = Store.open(tiny_stores[0]).captions
    for read in (
        lambda: table.value("id", row),
        lambda: table.feature(row),
        lambda: table.features(np.array([0, row])),
    ):
        with pytest.raises(IndexError, match="captions"):
            read()


def test_features_are_unit_vectors_up_to_float16(tiny_stores):
    store = Store.open(tiny_stores[0])
    for table in (store.captions, store.images, store.refined()):
        features = table.features()
        assert features.dtype == np.float16 and table.dim == store.embed_dim == 32
        np.testing.assert_allclose(np.linalg.norm(features.astype(float), axis=1), 1, atol=2e-3)


def test_tags_of_an_image(tiny_stores):
    tags = Store.open(tiny_stores[0]).tags(0)
    assert [t.name for t in tags][1] == "speck" and tags[0].name.endswith("thing")
    assert tags[0].box == (0, 0, 4, 4) and tags[1].box is None


def test_is_set_tells_rows_whose_list_has_something(tmp_path):
    from synthcap_mm.files import write_shard
    from synthcap_mm.store.schema import images_table

    flags = [[], ["black"], [], ["uniform", "non_finite"], []]
    records = [
        write_shard(tmp_path, "images", i, images_table(["k"] * len(f), np.ones((len(f), 2)), [[]] * len(f), f))
        for i, f in enumerate((flags[:2], flags[2:]))
    ]
    assert ShardedTable(tmp_path, "images", records).is_set("flags").tolist() == [bool(f) for f in flags]


# ---- the memory
def test_splits_are_whole_and_disjoint(tiny_stores):
    store = Store.open(tiny_stores[0])
    train, heldout = store.caption_rows("train"), store.caption_rows("heldout")
    assert sorted([*train, *heldout]) == list(range(40)) == store.caption_rows(None).tolist()
    groups = store.captions.strings("group")
    assert not {groups[r] for r in train} & {groups[r] for r in heldout}


def test_identity_of_the_memory_depends_on_content_and_split(tiny_stores, tmp_path):
    store = Store.open(tiny_stores[0])
    moved = Store.open(shutil.copytree(tiny_stores[0], tmp_path / "moved"))
    assert store.captions_sha256() == moved.captions_sha256()
    assert len({store.captions_sha256(s) for s in ("train", "heldout", None)}) == 3
    assert store.captions_sha256() != Store.open(tiny_stores[1]).captions_sha256()


# ---- memory
@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """30 MB of features in three shards."""
    path = tmp_path_factory.mktemp("large")
    writer = StoreWriter(path, {"embed_dim": 512, "encoder": {"name": "A", "image": [1.0], "text": [1.0]}})
    writer.begin("today", "1.0")
    features = np.random.default_rng(0).normal(size=(10_000, 512)).astype(np.float16)
    for i in range(3):
        ids = [f"{i}/{j}" for j in range(len(features))]
        writer.write("captions", i, captions_table(ids, ids, ids, [False] * len(ids), features))
    writer.finish({"captions": 3})
    return path


def test_features_are_views_of_the_mapped_files(large):
    tracemalloc.start()
    store = Store.open(large)
    feature = store.captions.feature(29_999)
    store.captions.value("text", 12_345)
    store.caption_rows("train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not feature.flags.owndata and not feature.flags.writeable
    assert peak < 3e6  # rows and flags; the features would be 30 MB
    import pyarrow as pa

    assert pa.total_allocated_bytes() < 3e6


def test_stores_and_tables_pickle_by_path(large):
    """A spawned worker would otherwise get a copy of all features."""
    store = Store.open(large)
    store.captions.feature(0)
    for thing in (store, store.captions):
        assert len(pickle.dumps(thing)) < 5_000
    table = pickle.loads(pickle.dumps(store.captions))
    np.testing.assert_array_equal(table.feature(20_001), store.captions.feature(20_001))
    assert pickle.loads(pickle.dumps(store)).captions.value("id", 20_001) == "2/1"
