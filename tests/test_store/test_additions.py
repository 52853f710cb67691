"""Further tables in a finished store."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from random_store import make_store

from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.additions import Parts, add_tables, fingerprint_of, open_apart_from
from synthcap_mm.store.schema import pairs_table


@pytest.fixture()
def store(tmp_path):
    return make_store(tmp_path / "store", captions=40)


def rows(*images):
    n = len(images)
    return pairs_table(np.arange(n), np.array(images), np.zeros(n), np.zeros(n))


def test_a_table_is_added_and_replaced(store):
    add_tables(store, {"pairs/new": [rows(1, 2), rows(3)]}, {"pairs/new/why.json": {"a": 1}}, curation="k")
    opened = Store.open(store, verify="full")
    assert opened.pairs("new").numbers("image").tolist() == [1, 2, 3] and opened.has("pairs/default")
    assert [r["curation"] for r in opened.manifest["tables"]["pairs/new"]["shards"]] == ["k", "k"]
    assert json.loads((Path(store) / "pairs/new/why.json").read_text()) == {"a": 1}
    add_tables(store, {"pairs/new": [rows(7)]}, {})
    assert Store.open(store, verify="full").pairs("new").numbers("image").tolist() == [7]
    assert sorted(p.name for p in (Path(store) / "pairs/new").iterdir()) == ["00000.arrow", "why.json"]


def test_what_others_added_meanwhile_stays(store):
    opened = Store.open(store)
    add_tables(store, {"pairs/a": [rows(1)]}, {})
    add_tables(store, {"pairs/b": [rows(2)]}, {})
    assert not opened.has("pairs/a") and Store.open(store).has("pairs/a") and Store.open(store).has("pairs/b")


def test_an_unfinished_store_gets_none(store, tmp_path):
    manifest = json.loads((Path(store) / "manifest.json").read_text())
    (Path(store) / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(StoreError, match="no finished store"):
        add_tables(store, {"pairs/new": [rows(1)]}, {})
    with pytest.raises(StoreError, match="no finished store"):
        add_tables(tmp_path / "nowhere", {"pairs/new": [rows(1)]}, {})
    assert not (Path(store) / "pairs" / "new").exists()


@pytest.mark.parametrize("number, told", [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission")])
@pytest.mark.parametrize("at", ["manifest.json", "pairs/new/00001.arrow", "pairs/new/why.json"])
def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch, number, told, at):
    from synthcap_mm.store import shards

    before = Store.open(store, verify="full").manifest["tables"].keys()
    add_tables(store, {"pairs/new": [rows(1)]}, {})
    replace, count = os.replace, {at: 0}

    def full(source, target):
        if str(target).endswith(at):
            count[at] += 1
            if at != "manifest.json" or count[at] == 2:  # the second manifest is the one that lists the table
                raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr(shards.os, "replace", full)
    with pytest.raises(StoreError, match=f"{told}.* write {at} of the store"):
        add_tables(store, {"pairs/new": [rows(1, 2), rows(3)]}, {"pairs/new/why.json": {}})
    assert Store.open(store, verify="full").manifest["tables"].keys() == before
    assert not (Path(store) / "pairs/new").exists() and not list(Path(store).rglob("*.tmp"))
    monkeypatch.setattr(shards.os, "replace", replace)
    add_tables(store, {"pairs/new": [rows(1, 2), rows(3)]}, {})
    assert Store.open(store, verify="full").has("pairs/new")


def test_a_full_disk_keeps_the_parts_that_are_there(tmp_path, monkeypatch):
    from synthcap_mm.store import shards

    parts = Parts(tmp_path, "job", "1" * 64)
    parts.write("a", 0, pa.table({"x": [1]}))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(StoreError, match=r"the disk is full: cannot write \.additions/job-1{16}/a/00001\.arrow of the"):
        parts.write("a", 1, pa.table({"x": [2]}))
    assert parts.missing("a", 2) == [1] and not list(tmp_path.rglob("*.tmp"))


def test_open_apart_from_what_is_to_be_made_again(store):
    add_tables(store, {"pairs/new": [rows(1, 2)]}, {})
    assert open_apart_from(store, ["pairs/new"]).has("pairs/new")
    (Path(store) / "pairs/new/00000.arrow").write_bytes(b"")
    assert not open_apart_from(store, ["pairs/new"]).has("pairs/new")
    with pytest.raises(StoreError, match=r"pairs/new/00000.arrow is damaged"):
        open_apart_from(store, ["pairs/other"])
    (Path(store) / "images/00000.arrow").unlink()
    with pytest.raises(StoreError, match=r"images/00000.arrow is missing"):
        open_apart_from(store, ["pairs/new"])


def test_a_store_of_a_newer_version_is_left_alone(store):
    add_tables(store, {"pairs/new": [rows(1, 2)]}, {})
    file = Path(store) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 2, "tables": "of another form"}))
    (Path(store) / "pairs/new/00000.arrow").write_bytes(b"")
    with pytest.raises(StoreError, match=r"schema 2.*update synthcap_mm"):
        open_apart_from(store, ["pairs/new"])


def test_parts_survive_and_others_are_swept(tmp_path):
    old, other = Parts(tmp_path, "job", "1" * 64), Parts(tmp_path, "job-two", "2" * 64)
    for parts in (old, other):
        parts.write("a", 0, pa.table({"x": [1, 2]}))
    parts = Parts(tmp_path, "job", "3" * 64)
    assert parts.missing("a", 2) == [0, 1]
    parts.write("a", 1, pa.table({"x": [3]}))
    parts.sweep()
    assert parts.missing("a", 2) == [0] and not old.root.exists() and other.root.exists()
    parts.write("a", 0, pa.table({"x": [1, 2]}))
    assert Parts(tmp_path, "job", "3" * 64).read("a", 2).numbers("x").tolist() == [1, 2, 3]
    (parts.root / "a" / "00000.arrow").write_bytes(b"bad")
    assert parts.missing("a", 2) == [0]
    with pytest.raises(StoreError, match="lost a part of a"):
        parts.read("a", 2)
    parts.remove()
    other.remove()
    assert not list(tmp_path.iterdir())


def test_fingerprints():
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1}) != fingerprint_of({"a": 1, "b": 3})
