"""Reading a store."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_store import make_store
from store_files import make

from synthcap_mm.store import Store, StoreError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def pairs(tiny_stores, tmp_path):
    """A copy of the tiny store, to be damaged."""
    return shutil.copytree(tiny_stores[0], tmp_path / "copy")


# ---- opening
def test_what_is_no_store_names_the_commands(tmp_path):
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "nowhere")
    for part in ("synthesize", "encode-images", str(tmp_path / "nowhere")):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["{", "{}", "3", '{"format": 999}'])
def test_a_view_that_cannot_be_read_is_named(pairs, content):
    (pairs / "store.json").write_text(content)
    with pytest.raises(StoreError, match=r"store\.json"):
        Store.open(pairs)


def test_a_missing_shard_is_named(pairs):
    path = Store.open(pairs).paths("image_features")[1]
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        Store.open(pairs)


def test_unknown_tables_and_splits_are_refused(tiny_stores):
    store = Store.open(tiny_stores[0])
    with pytest.raises(StoreError, match=r"curated.*pairs/default"):
        store.pairs("curated")
    with pytest.raises(ValueError, match="split"):
        store.caption_rows("val")
    with pytest.raises(StoreError, match="tokenizer"):
        Store.open(tiny_stores[1]).tokenizer_path  # noqa: B018


def test_who_opened_a_store_goes_on_with_what_it_opened(tiny_synthesis, tiny):
    make(tiny_synthesis)
    store = Store.open(tiny_synthesis["store"])
    before, texts = store.refined().features(), store.captions.strings("text")
    make(tiny_synthesis, captions={"type": "TinyCaptions", "num": 50}, refine={"steps": 9, "bank_size": 4})
    for opened in (store, pickle.loads(pickle.dumps(store))):
        assert opened.captions.strings("text") == texts
        np.testing.assert_array_equal(opened.refined().features(), before)
    assert len(Store.open(tiny_synthesis["store"]).captions) == 50


def test_a_store_can_be_moved(tiny_stores, pairs):
    one, moved = Store.open(tiny_stores[0]), Store.open(pairs)
    shutil.move(pairs, pairs.with_name("again"))
    moved = Store.open(pairs.with_name("again") / "store.json")
    assert moved.view == one.view and moved.captions_sha256() == one.captions_sha256()
    np.testing.assert_array_equal(moved.images.features(), one.images.features())


# ---- rows
def test_rows_over_shards(tiny_stores, tiny):
    store, captions = Store.open(tiny_stores[0]), tiny.sentences(40)
    assert len(store.captions) == 40 and len(store.paths("texts")) == 3
    for row in (0, 15, 16, 31, 32, 39):
        assert store.captions.value("id", row) == captions[row].id
        assert store.captions.value("text", row) == captions[row].text
        np.testing.assert_array_equal(store.captions.feature(row), store.captions.features()[row])
    rows = np.array([39, 0, 16, 16, 15])
    np.testing.assert_array_equal(store.caption_features(rows), store.captions.features()[rows])
    for table in (store.captions, store.images, store.refined()):
        features = table.features()
        assert features.dtype == np.float16 and table.dim == store.embed_dim == 32
        np.testing.assert_allclose(np.linalg.norm(features.astype(float), axis=1), 1, atol=2e-3)


def test_tags_of_an_image(tiny_stores, tmp_path):
    tags = Store.open(tiny_stores[0]).tags(0)
    assert [t.name for t in tags][1] == "speck" and tags[0].name.endswith("thing")
    assert tags[0].box == (0, 0, 4, 4) and tags[1].box is None


def test_splits_are_whole_and_disjoint(tiny_stores):
    store = Store.open(tiny_stores[0])
    train, heldout = store.caption_rows("train"), store.caption_rows("heldout")
    assert sorted([*train, *heldout]) == list(range(40)) == store.caption_rows(None).tolist()
    groups = store.captions.strings("group")
    assert not {groups[r] for r in train} & {groups[r] for r in heldout}


def test_identity_of_the_memory_depends_on_content_and_split(tiny_stores, tiny_synthesis):
    store = Store.open(tiny_stores[0])
    assert len({store.captions_sha256(s) for s in ("train", "heldout", None)}) == 3
    for changes, same in (
        ({"images_per_caption": 2, "refine": None}, True),
        ({"holdout": 0.3}, False),
        ({"encoder": {"type": "TinyEncoder", "seed": 1}}, False),
        ({"captions": {"type": "TinyCaptions", "num": 39}}, False),
    ):
        make(tiny_synthesis, redraw=True, **changes)
        assert (Store.open(tiny_synthesis["store"]).captions_sha256() == store.captions_sha256()) == same


# ---- what it is of
def test_another_encoder_is_refused_with_both_names(tiny_stores, tiny):
    store = Store.open(tiny_stores[0])
    store.check_encoder(tiny.TinyEncoder().fingerprint())
    with pytest.raises(StoreError) as caught:
        store.check_encoder(tiny.TinyEncoder(seed=1, name="other").fingerprint(), "the demo's")
    for part in ("'tiny'", "'other'", "the demo's", str(store.path)):
        assert part in str(caught.value)


def test_a_second_encoder_is_known_by_its_name(two_encoders, tiny):
    store = Store.open(two_encoders[0])
    assert store.width_of("search") == store.text_features("search").dim == 24 and store.embed_dim == 32
    store.check_encoder(tiny.TinyEncoder(dim=24, seed=7).fingerprint(), name="search")
    with pytest.raises(StoreError, match=r"'other' and 'tiny' are different"):
        store.check_encoder(tiny.TinyEncoder().fingerprint(), name="search")
    for ask in (store.image_features, store.text_features, store.fingerprint_of):
        with pytest.raises(StoreError, match=r"no features of an encoder 'clip'.*its own \(tiny\) and of search"):
            ask("clip")


def test_a_table_knows_how_it_was_made(tiny_stores):
    store = Store.open(tiny_stores[0])
    assert store.recipe("refined/default")["settings"] == {"bank_size": 16, "lr": 0.01, "steps": 3}
    table = store.opened("image_features")
    assert table.identity == store.identity("image_features") and table.missing() == []
    assert store.opened("tokenizer").identity == store.identity("tokenizer")
    json.dumps(store.view)


# ---- many shards
MANY = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
from synthcap_mm.store import Store
store = Store.open(sys.argv[1])
rows = np.random.default_rng(0).permutation(len(store.captions))
features = store.captions.features(rows)
assert np.array_equal(features[:50], [store.captions.feature(int(r)) for r in rows[:50]])
assert len(store.captions.strings("text")) == len(rows) == 6000 and len(store.images.is_set("flags")) == 6000
assert store.captions.value("text", 5999) == "caption number 5999"
"""


@pytest.mark.slow
def test_thousands_of_shards_are_read_with_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # 21,000 files
    path = make_store(tmp_path / "store", captions=6000, dim=4, shard=2)
    assert len(Store.open(path).paths("texts")) == 3000
    done = subprocess.run([sys.executable, "-c", MANY, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
