"""Making a store."""

import json

import numpy as np
import pytest

from synthcap_mm.store import Store, StoreError, StoreWriter
from synthcap_mm.store.schema import captions_table

FEATURES = np.eye(4, dtype=np.float32)
ENCODER = {"name": "A", "image": [1.0, 0.0], "text": [0.0, 1.0]}


def header(**changes):
    return {"embed_dim": 4, "encoder": ENCODER, "seed": 0, "generator": {"steps": 20, "size": (64, 64)}, **changes}


def rows(start):
    ids = [str(start + i) for i in range(4)]
    return captions_table(ids, ids, [None] * 4, [False] * 4, FEATURES)


def make(path, shards=(0, 1), finish=True, **changes):
    writer = StoreWriter(path, header(**changes))
    writer.begin("today", "1.0")
    for i in shards:
        writer.write("captions", i, rows(4 * i), truncated=0)
    if finish:
        writer.finish({"captions": 2})
    return writer


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_finished_store_opens_and_has_nothing_else_in_it(tmp_path):
    make(tmp_path)
    store = Store.open(tmp_path, verify="full")
    assert len(store.captions) == 8
    assert store.manifest["created"] == "today"
    assert sorted(files(tmp_path)) == ["captions/00000.arrow", "captions/00001.arrow", "manifest.json"]


def test_shards_may_be_written_in_any_order_and_by_anyone(tmp_path):
    make(tmp_path / "a")
    first = StoreWriter(tmp_path / "b", header())
    first.begin("today", "1.0")
    second = StoreWriter(tmp_path / "b", header())
    second.write("captions", 1, rows(4), truncated=0)
    first.write("captions", 0, rows(0), truncated=0)
    first.finish({"captions": 2})
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_finish_refuses_while_a_shard_is_missing(tmp_path):
    writer = make(tmp_path, shards=[0], finish=False)
    with pytest.raises(StoreError, match=r"captions/00001\.arrow"):
        writer.finish({"captions": 2})
    assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]


def test_record_is_none_for_missing_and_damaged_shards(tmp_path):
    make(tmp_path)
    writer = StoreWriter(tmp_path, header())
    assert writer.record("captions", 0)["rows"] == 4
    assert writer.record("captions", 2) is None
    path = tmp_path / "captions" / "00000.arrow"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert writer.record("captions", 0) is None
    (tmp_path / "captions" / "00001.json").write_text("{half a rec")
    assert writer.record("captions", 1) is None


def test_other_settings_are_refused_with_their_fields_and_nothing_is_touched(tmp_path):
    make(tmp_path)
    before = files(tmp_path)
    other = header(generator={"steps": 50, "size": (64, 64)}, refine={"steps": 3})
    with pytest.raises(StoreError) as caught:
        StoreWriter(tmp_path, other)
    message = str(caught.value)
    assert "generator.steps: the store has 20, the config asks for 50" in message
    assert "refine" in message
    assert "seed" not in message and "size" not in message
    assert str(tmp_path) in message
    assert files(tmp_path) == before


def test_tuples_in_settings_are_no_difference(tmp_path):
    make(tmp_path)
    StoreWriter(tmp_path, header(generator={"steps": 20, "size": [64, 64]}))


def test_another_encoder_is_refused_with_both_names(tmp_path):
    make(tmp_path)
    before = files(tmp_path)
    with pytest.raises(StoreError) as caught:
        StoreWriter(tmp_path, header(encoder={"name": "B", "image": [0.0, 1.0], "text": [0.0, 1.0]}))
    assert "'A'" in str(caught.value) and "'B'" in str(caught.value)
    assert files(tmp_path) == before


def test_the_same_encoder_within_the_tolerance_is_the_same(tmp_path):
    make(tmp_path)
    StoreWriter(tmp_path, header(encoder={"name": "A on a GPU", "image": [1.0, 1e-3], "text": [0.0, 1.0]}))


def test_another_schema_is_refused(tmp_path):
    make(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        StoreWriter(tmp_path, header())


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 1}', "not json"])
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest.json is not a store's manifest"):
        StoreWriter(tmp_path, header())


def test_a_second_run_keeps_the_date_the_shards_and_the_tokenizers_entry(tmp_path):
    writer = make(tmp_path, finish=False)
    writer.finish({"captions": 2}, tokenizer={"file": "tokenizer.json", "sha256": "0"})
    again = StoreWriter(tmp_path, header())
    again.begin("tomorrow", "1.1")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["created"] == "today" and manifest["complete"]  # nothing of it is lost
    assert [r["file"] for r in manifest["tables"]["captions"]["shards"]] == [
        "captions/00000.arrow",
        "captions/00001.arrow",
    ]
    # stopped here, a third run still knows all
    third = StoreWriter(tmp_path, header())
    assert third.record("captions", 1) is not None
    assert third.header["tokenizer"]["sha256"] == "0"


def test_tables_of_others_stay(tmp_path):
    make(tmp_path)
    curator = StoreWriter(tmp_path, header())
    curator.begin("later", "1.0")
    curator.write("pairs/curated", 0, rows(0))
    curator.finish({"captions": 2, "pairs/curated": 1})
    writer = StoreWriter(tmp_path, header())
    writer.begin("later", "1.0")
    writer.finish({"captions": 2})
    assert Store.open(tmp_path, verify="full").has("pairs/curated")


def test_records_without_a_manifest_are_not_trusted(tmp_path):
    """Whoever deletes the manifest alone would otherwise mix shards of two settings."""
    make(tmp_path, shards=[0], finish=False)
    (tmp_path / "manifest.json").unlink()
    writer = StoreWriter(tmp_path, header(seed=1))
    writer.begin("today", "1.0")
    assert writer.record("captions", 0) is None


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    writer = make(tmp_path, finish=False)
    left = tmp_path / "captions" / ".00000.arrow.abc.tmp"
    left.write_bytes(b"half")
    writer.finish({"captions": 2})
    assert not left.exists()
