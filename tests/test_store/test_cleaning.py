"""What lies in a store, what may go, and what is damaged."""

import os
import shutil
import time
from pathlib import Path

import pytest
from store_files import files, make

from synthcap_mm.store import Store, StoreError, cleaning
from synthcap_mm.store.tables import read_shard
from synthcap_mm.synthesis.synthesis import Synthesis

OTHER = {"refine": {"steps": 2}}


def grow_old(store):
    for path in Path(store).rglob("*"):
        os.utime(path, (time.time() - 30 * 86_400,) * 2)


def test_what_views_configs_and_other_jobs_need_is_kept(tiny_synthesis):
    folder = Path(tiny_synthesis["store"])
    make(tiny_synthesis, limit=20)
    make(tiny_synthesis, **OTHER)
    make(tiny_synthesis)
    assert cleaning.unused_files(folder) == []  # young
    grow_old(folder)
    unused = cleaning.unused_files(folder)
    assert {p.parent.name.partition("-")[0] for p in unused} == {"refined"} and len(unused) == 3
    assert cleaning.unused_files(folder, Synthesis(**{**tiny_synthesis, **OTHER}).tables.values()) == []
    views = [Store.open(folder).view, Store.open(folder / "first20.json").view]
    kept = {n for n in files(folder) if not n.startswith(unused[0].parent.name)}
    cleaning.remove(unused)
    assert {*files(folder)} == kept and not unused[0].parent.exists()
    assert [Store.open(folder).view, Store.open(folder / "first20.json").view] == views
    (folder / "first20.json").unlink()
    assert {p.name[:5] for p in cleaning.unused_files(folder)} >= {"00001"}  # the half shard of the first 20


def test_a_second_encoders_tables_are_listed_checked_and_kept(two_encoders, tmp_path):
    folder = shutil.copytree(two_encoders[0], tmp_path / "two")
    told = cleaning.describe(folder)
    assert "store.json: pairs, encoder tiny, search other, " in told
    tables = [line.split()[-1] for line in told.splitlines() if line.strip().startswith("image_features-")]
    assert sorted(tables) == ["store.json:image_features", "store.json:image_features/search"]
    grow_old(folder)
    assert cleaning.unused_files(folder) == [] == cleaning.check(folder)
    path = Store.open(folder).paths("text_features/search")[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert cleaning.check(folder) == [path]


def test_pictures_go_with_their_shard(tiny_synthesis):
    make(tiny_synthesis, keep_images=True)
    make(tiny_synthesis, keep_images=True, captions={"type": "TinyCaptions", "num": 39})
    grow_old(tiny_synthesis["store"])
    unused = cleaning.unused_files(Path(tiny_synthesis["store"]))
    assert sorted(p.suffix for p in unused if p.parent.name.startswith("pictures")) == [".arrow", ".tar"]
    cleaning.remove(unused)
    Store.open(tiny_synthesis["store"]).image(38)


@pytest.mark.parametrize("table", ["texts", "image_features", "tags", "pictures", "refined/default", "tar"])
def test_a_flipped_byte_is_found_and_made_anew(tiny_synthesis, tiny, table):
    settings = {**tiny_synthesis, "keep_images": True}
    make(settings)
    folder, before, drawn = Path(settings["store"]), files(settings["store"]), tiny.TinyPainter.drawn
    store = Store.open(folder)
    features = store.images.features()
    path = store.paths("pictures" if table == "tar" else table)[1]
    damaged = path.with_suffix(".tar") if table == "tar" else path
    content = bytearray(damaged.read_bytes())
    at = 600 if table == "tar" else content.index(read_shard(path).column(0).buffers()[-1].to_pybytes())
    content[at] ^= 255
    damaged.write_bytes(content)
    assert cleaning.check(folder) == [path] and cleaning.check(folder) == []
    with pytest.raises(StoreError, match=path.name):
        Store.open(folder)
    make(settings, redraw=path.parent.name.startswith("pictures"))
    assert files(folder) == before
    assert tiny.TinyPainter.drawn - drawn == (16 if path.parent.name.startswith("pictures") else 0)
    assert (Store.open(folder).images.features() == features).all()


def test_what_lies_there_is_described(tiny_synthesis, tmp_path):
    make(tiny_synthesis)
    make(tiny_synthesis, refine=None)
    found = cleaning.describe(Path(tiny_synthesis["store"]))
    lines = {line.split()[0].partition("-")[0]: line for line in found.splitlines() if "-" in line}
    assert "store.json:texts" in lines["texts"] and lines["refined"].endswith("nothing")
    with pytest.raises(StoreError, match="no store"):
        cleaning.describe(tmp_path)
