"""The settings of the refine stage: looked at before anything is drawn, and all that depends on them is its table."""

import json
from pathlib import Path

import numpy as np
import pytest

from synthcap_mm.pairs import PairFactory, factory
from synthcap_mm.pairs.refining import check_refine
from synthcap_mm.stores import Store, StoreError


@pytest.fixture()
def nothing_is_drawn(tiny, monkeypatch):
    def refuse(self, *args):
        raise AssertionError("drew or encoded again")

    def forbid():
        monkeypatch.setattr(tiny.TinyPainter, "generate", refuse)
        monkeypatch.setattr(tiny.TinyTagger, "detect", refuse)
        # one probe of each is the fingerprint's
        monkeypatch.setattr(factory.PairFactory, "_encode_text", refuse)

    return forbid


def files(store):
    return {p.relative_to(store): p.stat().st_mtime_ns for p in Path(store).rglob("*.arrow")}


def untouched(before, after, table):
    return {k: v for k, v in before.items() if k.parts[0] != table} == {
        k: v for k, v in after.items() if k.parts[0] != table
    }


def test_other_refine_settings_remake_the_refined_table_only(tiny_synthesis, tmp_path, nothing_is_drawn, caplog):
    PairFactory(**tiny_synthesis).run()
    changed = {**tiny_synthesis, "refine": {"steps": 9, "lr": 0.01, "bank_size": 16}}
    PairFactory(**{**changed, "store": str(tmp_path / "afresh")}).run()
    before, old = files(tiny_synthesis["store"]), Store.open(tiny_synthesis["store"]).refined().features()
    nothing_is_drawn()
    counts = PairFactory(**changed).run()
    assert (counts["shards_made"], counts["shards_reused"]) == (3, 9)
    store, afresh = (Store.open(path, verify="full") for path in (tiny_synthesis["store"], tmp_path / "afresh"))
    assert untouched(before, files(store.path), "refined")
    assert np.array_equal(store.refined().features(), afresh.refined().features())
    assert not np.array_equal(store.refined().features(), old)
    differ = {k for k in store.manifest if store.manifest[k] != afresh.manifest[k]}
    assert differ <= {"created"} and store.manifest["refine"]["steps"] == 9
    assert PairFactory(**changed).run()["shards_made"] == 0


def test_held_out_captions_are_no_negatives(tiny_synthesis, monkeypatch):
    banks = []

    class Bank(factory.NegativeBank):
        def _load(self, captions, images):
            banks.append(captions)
            return super()._load(captions, images)

    monkeypatch.setattr(factory, "NegativeBank", Bank)
    PairFactory(**{**tiny_synthesis, "refine": {"steps": 1, "lr": 0.01, "bank_size": 10_000}}).run()
    store = Store.open(tiny_synthesis["store"])
    heldout = store.caption_rows("heldout")
    assert len(heldout) and set(banks[0]) <= set(store.caption_rows("train"))
    assert set(heldout) <= {row for rows in banks[1:] for row in rows}  # they are optimised themselves


def test_a_remaking_that_was_stopped_has_no_shard_of_the_old_settings(tiny_synthesis, tmp_path, monkeypatch):
    PairFactory(**tiny_synthesis).run()
    changed = {**tiny_synthesis, "refine": {"steps": 9, "lr": 0.01, "bank_size": 16}}
    PairFactory(**{**changed, "store": str(tmp_path / "afresh")}).run()
    write = factory.StoreWriter.write

    def stop(self, table, index, *args, **info):
        if (table, index) == ("refined/default", 1):
            raise KeyboardInterrupt
        return write(self, table, index, *args, **info)

    monkeypatch.setattr(factory.StoreWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        PairFactory(**changed).run()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="not finished"):
        Store.open(tiny_synthesis["store"])
    assert PairFactory(**changed).run()["shards_made"] == 2
    one, other = (Store.open(p).refined().features() for p in (tiny_synthesis["store"], tmp_path / "afresh"))
    assert np.array_equal(one, other)


def test_a_store_of_before_tables_said_their_settings(tiny_synthesis, nothing_is_drawn):
    """Nothing of it is made anew while the settings stay, and a change of them is noticed."""
    PairFactory(**tiny_synthesis).run()
    file = Path(tiny_synthesis["store"], "manifest.json")
    manifest = json.loads(file.read_text())
    for record in manifest["tables"]["refined/default"]["shards"]:
        del record["settings"]
    del manifest["tokenizer"]["settings"]
    file.write_text(json.dumps(manifest))
    nothing_is_drawn()
    assert PairFactory(**tiny_synthesis).run()["shards_made"] == 0
    file.write_text(json.dumps(manifest))
    other = {"refine": {"steps": 4}, "tokenizer": {"kind": "train", "vocab_size": 310}}
    assert PairFactory(**{**tiny_synthesis, **other}).run()["shards_made"] == 3
    assert Store.open(tiny_synthesis["store"]).manifest["tokenizer"]["sha256"] != manifest["tokenizer"]["sha256"]


def test_refined_features_go_and_come_with_their_setting(tiny_synthesis, nothing_is_drawn):
    PairFactory(**tiny_synthesis).run()
    before = Store.open(tiny_synthesis["store"])
    old = before.refined().features()
    nothing_is_drawn()
    PairFactory(**{**tiny_synthesis, "refine": None}).run()
    store = Store.open(tiny_synthesis["store"])
    assert not store.has("refined/default") and not list(store.path.glob("refined/default/*"))
    assert store.manifest["tokenizer"] == before.manifest["tokenizer"]
    PairFactory(**tiny_synthesis).run()
    assert np.array_equal(Store.open(tiny_synthesis["store"]).refined().features(), old)


def test_another_tokenizer_leaves_the_tables(tiny_synthesis, nothing_is_drawn):
    PairFactory(**tiny_synthesis).run()
    before = Store.open(tiny_synthesis["store"]).manifest
    nothing_is_drawn()
    changed = {**tiny_synthesis, "tokenizer": {"kind": "train", "vocab_size": 280}}
    PairFactory(**changed).run(only="refine")
    with pytest.raises(StoreError, match="not finished"):  # its tokenizer is not the config's yet
        Store.open(tiny_synthesis["store"])
    assert PairFactory(**changed).run()["shards_made"] == 0
    after = Store.open(tiny_synthesis["store"]).manifest
    assert after["tables"] == before["tables"] and after["tokenizer"]["sha256"] != before["tokenizer"]["sha256"]
    PairFactory(**{**tiny_synthesis, "tokenizer": None}).run()
    assert not Store.open(tiny_synthesis["store"]).manifest["tokenizer"]


BAD = [
    ({"step": 3}, r"synthesis.refine has no option 'step'; did you mean 'steps'\?"),
    ({"negative_text": 1}, "synthesis.refine has no option 'negative_text'"),
    ({"steps": 2.5}, "synthesis.refine: .*steps"),
    ({"steps": -1}, "steps is .*, got -1"),
    ({"lr": "0.1"}, "lr is .*, got '0.1'"),
    ({"lr": float("nan")}, "lr is"),
    ({"temperature": None}, "temperature is"),
    ({"pull": -1}, "pull is"),
    ({"target_cosine": 2}, "target_cosine is"),
    ({"bank_size": 0}, "synthesis.refine.bank_size must be a whole number"),
    ({"bank_size": True}, "synthesis.refine.bank_size"),
    (["steps"], "synthesis.refine is a dict"),
]


@pytest.mark.parametrize("refine, told", BAD)
def test_what_the_stage_could_not_use_is_found_before_anything_is_made(tiny_synthesis, refine, told):
    with pytest.raises(ValueError, match=told):
        PairFactory(**{**tiny_synthesis, "refine": refine})
    assert not Path(tiny_synthesis["store"]).exists()


def test_what_it_can_use():
    check_refine(None)
    check_refine({})
    check_refine({"steps": 0, "lr": 1, "pull": 0, "temperature": 0.5, "target_cosine": None, "bank_size": 1})
    check_refine({"target_cosine": -0.5})
