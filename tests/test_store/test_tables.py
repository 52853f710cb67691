"""Tables of shards."""

import os
import pickle
import subprocess
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from synthcap_mm.files import own_file
from synthcap_mm.store import StoreError, Table
from synthcap_mm.store.schema import feature_rows, image_feature_rows, texts_rows
from synthcap_mm.store.tables import JoinedTable, facts_of, is_undamaged, key_of


def features_table(root, sizes=(3, 0, 4), dim=5, **recipe):
    table = Table(root, "features", recipe, [key_of(i, size) for i, size in enumerate(sizes)])
    values = np.random.default_rng(0).normal(size=(sum(sizes), dim)).astype(np.float16)
    starts = np.cumsum([0, *sizes])
    for i, size in enumerate(sizes):
        table.write(i, feature_rows(values[starts[i] : starts[i] + size]), size=size)
    return table, values


def test_rows_are_numbered_over_shards(tmp_path):
    table, values = features_table(tmp_path)
    read = table.read()
    assert len(read) == 7 and read.dim == 5 and read.columns == ["feature"]
    np.testing.assert_array_equal(read.features(), values)
    rows = np.array([6, 0, 3, 3, 2])
    np.testing.assert_array_equal(read.features(rows), values[rows])
    np.testing.assert_array_equal([read.feature(int(r)) for r in rows], values[rows])
    assert read.features(np.array([], int)).shape == (0, 5)
    np.testing.assert_array_equal(table.read([2]).features(), values[3:])
    for row in (-1, 7):
        for reading in (lambda row=row: read.feature(row), lambda row=row: read.value("feature", row),
                        lambda row=row: read.features(np.array([0, row]))):  # fmt: skip
            with pytest.raises(IndexError):
                reading()


def test_columns_of_texts_and_lists(tmp_path):
    flags = [[], ["black"], [], ["uniform", "non_finite"], []]
    table = Table(tmp_path, "image_features", {}, ["a", "b"])
    texts = Table(tmp_path, "texts", {}, ["a", "b"])
    for i, part in enumerate((range(2), range(2, 5))):
        table.write(i, image_feature_rows(np.ones((len(part), 2)), [flags[j] for j in part]))
        texts.write(i, texts_rows([f"c{j}" for j in part], [f"text {j}" for j in part], [None] * len(part)))
    both = JoinedTable(texts.read(), table.read())
    assert both.is_set("flags").tolist() == [bool(f) for f in flags] and both.value("flags", 3) == flags[3]
    assert both.strings("text")[4] == "text 4" and both.value("group", 0) is None and both.dim == 2
    with pytest.raises(StoreError, match="'colour'"):
        both.numbers("colour")


def test_a_name_says_what_was_made(tmp_path):
    one, same = (Table(tmp_path, "t", {"x": 1}, ["a", "b"]) for _ in range(2))
    assert one.path(1) == same.path(1) and one.identity == same.identity
    for recipe, keys in (({"x": 2}, ["a", "b"]), ({"x": 1}, ["a", "c"]), ({"x": 1}, ["a"])):
        assert Table(tmp_path, "t", recipe, keys).identity != one.identity
    assert one.folder != Table(tmp_path, "t", {"x": 2}, ["a"]).folder


def test_writing_is_whole_once_and_the_same(tmp_path):
    table, _ = features_table(tmp_path / "a")
    other, _ = features_table(tmp_path / "b")
    names = sorted(p.name for p in table.folder.iterdir())
    assert names == sorted([*table.names, "recipe.json"]) and table.missing() == []
    for name in names:
        assert (table.folder / name).read_bytes() == (other.folder / name).read_bytes()
    before = table.path(0).stat().st_mtime_ns
    table.write(0, feature_rows(np.zeros((9, 9))))  # whoever was first is right
    assert table.path(0).stat().st_mtime_ns == before
    assert facts_of(table.path(2))["size"] == 4 and is_undamaged(table.path(2))
    table.path(0).unlink()
    assert table.missing() == [0]
    with pytest.raises(StoreError, match=table.names[0]):
        table.read()


@pytest.mark.parametrize("damage", ["empty", "end", "begin", "middle"])
def test_cut_shards_are_set_aside(tmp_path, damage):
    table, _ = features_table(tmp_path)
    table.read()
    content = table.path(2).read_bytes()
    kept = {"empty": b"", "end": content[:-1], "begin": content[1:], "middle": content[:99]}[damage]
    table.path(2).write_bytes(kept)
    assert table.clean() == [table.names[2]] and table.missing() == [2]
    assert (table.folder / f"{table.names[2]}.damaged").read_bytes() == kept
    assert table.clean() == []
    features_table(tmp_path)
    np.testing.assert_array_equal(table.read().features(), features_table(tmp_path / "other")[0].read().features())


def test_what_killed_processes_left_goes(tmp_path):
    table, _ = features_table(tmp_path)
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = own_file(table.path(0), "1.tmp")
    of_dead = mine.with_name(mine.name.replace(f"~{os.getpid()}~", f"~{dead.pid}~"))
    old, elsewhere = (mine.with_name(f".x~{n}~other.host~1.tmp") for n in (1, 2))
    for path in (mine, of_dead, old, elsewhere):
        path.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    table.clean()
    assert [path.exists() for path in (mine, of_dead, old, elsewhere)] == [True, False, False, True]


def test_a_flip_of_any_byte_is_found_or_harmless(tmp_path):
    table, values = features_table(tmp_path, (3,))
    content = table.path(0).read_bytes()
    copy = table.folder / "copy.arrow"
    found = 0
    for at in range(0, len(content), 3):
        copy.unlink(missing_ok=True)
        copy.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        if is_undamaged(copy):
            batch = pa.ipc.open_file(pa.memory_map(str(copy))).get_batch(0)
            np.testing.assert_array_equal(batch.column(0).flatten().to_numpy().reshape(3, 5), values)
        else:
            found += 1
    assert found > 30


def test_features_are_views_of_the_mapped_files_and_tables_pickle_by_path(tmp_path):
    table, values = features_table(tmp_path, (10_000, 10_000, 10_000), 512)  # 30 MB
    allocated = pa.total_allocated_bytes()
    tracemalloc.start()
    read = table.read()
    feature = read.feature(29_999)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not feature.flags.owndata and not feature.flags.writeable
    assert peak < 3e6 and pa.total_allocated_bytes() - allocated < 3e6
    assert len(pickle.dumps(read)) < 5_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(read)).feature(20_001), values[20_001])
