"""Stores that were damaged, or made to harm."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from random_store import make_store

from synthcap_mm.store import Store, StoreError, cleaning
from synthcap_mm.store.checking import view_sha256
from synthcap_mm.store.recipes import digest
from synthcap_mm.store.tables import facts_of, forget_shards, read_shard


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Path(make_store(tmp_path_factory.mktemp("made") / "store", captions=40, shard=16, refine={"steps": 1}))


@pytest.fixture()
def store(made, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(made, tmp_path / "store")


def rewrite(store, change, signed=True):
    """Change a view as a stranger can, with its checksum set right."""
    file = store / "store.json"
    view = json.loads(file.read_text())
    change(view)
    if signed:
        view["sha256"] = view_sha256(view)
    file.write_text(json.dumps(view))


def places(value, path=()):
    """The place of every field in a view."""
    if isinstance(value, dict):
        value = value.items()
    elif isinstance(value, list):
        value = enumerate(value)
    else:
        return
    for key, item in value:
        yield (*path, key)
        yield from places(item, (*path, key))


HOSTILE = [None, True, -1, 10**30, 0.5, "", "../x", "/etc/passwd", "..", "a/b", "x\0", [], {}, [None], ["../x", 1, "y"]]


# ---- views
def test_no_field_of_a_view_can_be_anything_else(store):
    """Every field, one after another: removed, or of another type or form; with a right checksum."""
    view = json.loads((store / "store.json").read_text())
    for place in places(view):
        if place[:1] == ("encoder",) and len(place) > 2:
            continue  # one of many numbers
        for value in [*HOSTILE, ...]:
            changed = json.loads(json.dumps(view))
            at = changed
            for key in place[:-1]:
                at = at[key]
            if value is ...:
                del at[place[-1]]
            else:
                at[place[-1]] = value
            if changed == view or may_be_changed(place, value):
                continue
            if place != ("sha256",):
                changed["sha256"] = view_sha256(changed)
            (store / "store.json").write_text(json.dumps(changed))
            with pytest.raises(StoreError, match=r"store\.json"):
                Store.open(store)


def may_be_changed(place, value):
    """What a right view of another store could have there."""
    return (
        (place == ("encoder", "name") and isinstance(value, str))
        or (place[-1] == "inputs" and value == [])
        or (place[-2:-1] == ("inputs",) and value is ...)
        or (place in (("tables", "tags"), ("tables", "refined/default")) and value is ...)
    )


def test_a_second_encoder_has_a_fingerprint_and_tables(two_encoders, tmp_path):
    store = shutil.copytree(two_encoders[0], tmp_path / "two")
    before = (store / "store.json").read_text()
    for change in (
        lambda view: view.pop("other_encoders"),
        lambda view: view["other_encoders"].update(more=view["encoder"]),
        lambda view: view["other_encoders"].update(search=None),
        lambda view: view["other_encoders"]["search"].pop("text"),
        lambda view: [view["tables"].pop(f"{kind}_features/search") for kind in ("text", "image")],
        lambda view: view["tables"].update({"tags/search": view["tables"]["tags"]}),
        lambda view: view["tables"].update({"text_features/../x": view["tables"]["text_features"]}),
    ):
        rewrite(store, change)
        with pytest.raises(StoreError, match=r"store\.json"):
            Store.open(store)
        (store / "store.json").write_text(before)
    rewrite(store, lambda view: view["other_encoders"].update(search=view["encoder"]))
    with pytest.raises(StoreError, match="features of 24 numbers, the encoder's have 32"):
        Store.open(store).image_features("search").feature(0)


def test_a_view_that_was_edited_is_refused(store):
    for change in (
        lambda view: view["tables"].pop("tags"),
        lambda view: view["encoder"].update(name="other"),
        lambda view: view.update(more=1),
    ):
        before = (store / "store.json").read_text()
        rewrite(store, change, signed=False)
        with pytest.raises(StoreError, match="sha256"):
            Store.open(store)
        (store / "store.json").write_text(before)
    Store.open(store)


def exchange(shards, field):
    shards[0][field], shards[1][field] = shards[1][field], shards[0][field]


@pytest.mark.parametrize("table", ["texts", "image_features", "pairs/default"])
def test_shards_stay_in_their_places_and_whole(store, table):
    view = json.loads((store / "store.json").read_text())
    for change in (
        lambda shards: shards.reverse(),
        lambda shards: shards.pop(),
        lambda shards: shards.append(shards[0]),
        lambda shards: exchange(shards, 0),
    ):
        rewrite(store, lambda view, change=change: change(view["tables"][table]["shards"]))
        with pytest.raises(StoreError):
            Store.open(store)
        (store / "store.json").write_text(json.dumps(view))
    Store.open(store)


def test_rows_and_widths_are_those_of_the_view(store):
    rewrite(store, lambda view: [exchange(view["tables"][t]["shards"], 1) for t in ("texts", "text_features")])
    rewrite(store, lambda view: [exchange(view["tables"]["texts"]["shards"][1:], 1)])
    with pytest.raises(StoreError, match="rows"):
        Store.open(store).captions.strings("text")
    rewrite(store, lambda view: view["encoder"].update(image=[1.0, 0.0], text=[0.0, 1.0]))
    with pytest.raises(StoreError, match="numbers"):
        Store.open(store).images.feature(0)
    assert cleaning.check(store) == [store / "store.json"]


def test_what_a_view_lacks_is_not_read_as_a_view(store):
    rewrite(store, lambda view: view.update(format=1))
    with pytest.raises(StoreError, match="format"):
        Store.open(store)
    with pytest.raises(StoreError, match="format"):
        cleaning.unused_files(store)


# ---- files
def test_links_pipes_and_folders_are_no_shards(store, tmp_path):
    path = Store.open(store).paths("texts")[0]
    outside = path.rename(tmp_path / "outside.arrow")
    for make in (path.mkdir, lambda: path.symlink_to(outside), lambda: os.mkfifo(path)):
        make()
        with pytest.raises(StoreError, match=path.name):
            Store.open(store)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copy(outside, path)
    Store.open(store)
    folder = path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(folder)
    with pytest.raises(StoreError, match="link"):
        Store.open(store)


def test_a_view_is_no_link(store, tmp_path):
    view = (store / "store.json").rename(tmp_path / "outside.json")
    (store / "store.json").symlink_to(view)
    with pytest.raises(StoreError, match="link"):
        Store.open(store)


def test_a_recipe_is_that_of_its_folder(store):
    opened = Store.open(store)
    recipe = opened.paths("refined/default")[0].with_name("recipe.json")
    content = json.loads(recipe.read_text())
    for wrong in ("[", "[" * 10_000, "3", "{}", json.dumps({**content, "settings": 3})):
        recipe.write_text(wrong)
        with pytest.raises(StoreError, match=r"recipe\.json"):
            opened.recipe("refined/default")
    assert cleaning.check(store) == [recipe]
    recipe.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=r"recipe\.json"):
        opened.recipe("refined/default")


def test_strays_are_named(store):
    assert cleaning.stray_files(store) == []
    table = Store.open(store).paths("texts")[0].parent
    strays = [store / "notes.txt", table / "00000-x.exe", table / "00009-0123456789abcdef.arrow"]
    for path in strays[:2]:
        path.touch()
    strays[2].symlink_to("/etc/passwd")
    assert cleaning.stray_files(store) == sorted(strays)


# ---- shards
def replace_shard(store, table, batch, options=None):
    """Put a batch in place of a table's first shard."""
    path = Store.open(store).paths(table)[0]
    batch = batch.replace_schema_metadata({b"synthcap_mm": json.dumps({"sha256": "0" * 64}).encode()})
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    forget_shards()


def pairs_batch(caption=0, image=0, rows=16):
    numbers = np.zeros(rows, np.int64)
    columns = {"caption": numbers + caption, "image": numbers + image, "seed": numbers, "score": np.zeros(rows, "f4")}
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})


@pytest.mark.parametrize(
    "change", [{}, {"caption": 40}, {"caption": -1}, {"image": 40}, {"image": 2**62}, {"rows": 15}]
)
def test_pairs_point_into_the_store(store, change):
    replace_shard(store, "pairs/default", pairs_batch(**change))
    pairs = Store.open(store).pairs()
    if not change:
        assert pairs.value("caption", 3) == 0
        return
    with pytest.raises(StoreError, match="pairs"):
        pairs.numbers("caption")


def test_compressed_shards_are_refused_unread(store):
    bomb = pa.RecordBatch.from_pydict({"id": ["0" * 10_000_000], "text": ["x"], "group": ["x"]})
    for codec in ("zstd", "lz4"):
        replace_shard(store, "texts", bomb, pa.ipc.IpcWriteOptions(compression=codec))
        allocated = pa.total_allocated_bytes()
        with pytest.raises(StoreError, match="compressed"):
            Store.open(store).captions.value("text", 0)
        assert pa.total_allocated_bytes() - allocated < 1_000_000


def test_columns_of_another_type_are_refused_and_nothing_is_unpickled(store):
    words = ["x"] * 16
    pickled = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": b"cos\nabort\n(tR."}
    columns = {
        "dictionary": pa.array(words).dictionary_encode(),
        "large": pa.array(words, pa.large_string()),
        "view": pa.array(words, pa.string_view()),
        "number": pa.array(range(16)),
        "null": pa.nulls(16),
        "nothing": pa.array([None] * 16, pa.string()),
    }
    for column in columns.values():
        fields = [pa.field("id", column.type), pa.field("text", pa.string()), pa.field("group", pa.string())]
        batch = pa.RecordBatch.from_arrays([column, pa.array(words), pa.array(words)], schema=pa.schema(fields))
        replace_shard(store, "texts", batch)
        with pytest.raises(StoreError, match=Store.open(store).paths("texts")[0].name):
            Store.open(store).captions.value("text", 0)
    fields = [pa.field(name, pa.string(), metadata=pickled) for name in ("id", "text", "group")]
    replace_shard(store, "texts", pa.RecordBatch.from_arrays([pa.array(words)] * 3, schema=pa.schema(fields)))
    assert Store.open(store).captions.value("text", 0) == "x"  # nobody asked what the extension is


FLIPS = """
import random, sys
from pathlib import Path
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store import tables

store = Store.open(sys.argv[1])
for table in ("texts", "image_features", "tags", "pairs/default"):
    path = store.paths(table)[0]
    content = path.read_bytes()
    rng, refused = random.Random(table), 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 4])):
            at = rng.choice([rng.randrange(len(content)), rng.randrange(1000), len(content) - 1 - rng.randrange(600)])
            damaged[at] = rng.choice([damaged[at] ^ 1 << rng.randrange(8), 0, 255])
        path.write_bytes(damaged)
        tables.forget_shards()
        try:
            rows = store.table(table)
            for column in rows.columns:
                [rows.value(column, row) for row in range(len(rows))]
        except StoreError:
            refused += 1
        tables.is_undamaged(path)
    path.write_bytes(content)
    assert refused > 10, (table, refused)
"""


def test_damaged_shards_are_errors_and_no_crashes(store):
    done = subprocess.run([sys.executable, "-c", FLIPS, store], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_boxes_have_four_numbers(store):
    tag = {"name": "dog", "score": 0.5, "box": [0.0, 1.0], "area": 0.5}
    kind = read_shard(Store.open(store).paths("tags")[0]).schema.field("tags").type
    for wrong in (tag, {**tag, "box": [0.0, 1.0, None, 1.0]}, {**tag, "box": None, "name": None}):
        replace_shard(store, "tags", pa.RecordBatch.from_pydict({"tags": pa.array([[wrong]] * 16, kind)}))
        with pytest.raises(StoreError):
            Store.open(store).tags(0)


def test_names_of_folders_are_digests(made):
    opened = Store.open(made)
    for name in opened.tables:
        recipe = opened.recipe(name)
        assert opened.paths(name)[0].parent.name == f"{name.partition('/')[0]}-{digest(recipe)}"
        assert facts_of(opened.paths(name)[0])["sha256"] == opened.view["tables"][name]["shards"][0][2]
