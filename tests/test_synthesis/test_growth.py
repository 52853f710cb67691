"""What grows or changes costs its own shards and what depends on them, and no picture is drawn again unasked."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from store_files import files, make, new_files

from synthcap_mm.datasets.captions import Caption
from synthcap_mm.errors import UserError
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store import Store, cleaning, tables
from synthcap_mm.synthesis.synthesis import Synthesis


def listed(captions):
    return {"type": "ListedCaptions", "captions": [list(c) for c in captions]}


@pytest.fixture()
def drawn(tiny, monkeypatch):
    """Captions that were drawn since the last look."""
    found, generate = [], tiny.TinyPainter.generate
    monkeypatch.setattr(tiny.TinyPainter, "generate", lambda self, c, s: (found.extend(c), generate(self, c, s))[1])

    def look():
        seen = list(found)
        found.clear()
        return seen

    return look


def afresh(settings, store):
    """Shards of a store of these settings that was made in one go, in another folder, and its view."""
    make(settings, store=str(store))
    return files(store), Store.open(store).view


# ---- captions
@pytest.mark.parametrize("keep, k", [(False, 1), ("png", 1), (False, 2), ("jpg", 2)])
def test_appended_sentences_cost_their_shards(tiny_synthesis, tiny, drawn, tmp_path, keep, k):
    settings = {**tiny_synthesis, "keep_images": keep, "images_per_caption": k}
    captions, more = tiny.sentences(70), tiny.sentences(20, seed=1)
    more = [c._replace(id=f"new {c.id}", group=f"new {c.group}") for c in more]
    make(settings, captions=listed(captions))
    before = files(settings["store"])
    drawn()
    settings["captions"] = listed([*captions, *more])
    make(settings)
    assert len(drawn()) == 20 * k  # 6 rows of the last shard are copied
    added = new_files(settings["store"], before)
    of_rows = ["texts", "text_features", "images", "image_features", "tags", "pairs", *(["pictures"] if keep else [])]
    assert all(added.pop(table) == [4, 5] for table in of_rows)
    assert added == {"heldout": [0], "tokenizer": [0], "refined": [0, 1, 2, 3, 4, 5]}  # of the whole
    expected, view = afresh(settings, tmp_path / "afresh")
    assert expected.items() <= files(settings["store"]).items() and Store.open(settings["store"]).view == view


@pytest.mark.parametrize("keep", [False, "png"])
def test_a_sentence_in_the_middle_is_one_picture(tiny_synthesis, tiny, drawn, tmp_path, keep):
    settings = {**tiny_synthesis, "keep_images": keep}
    captions = tiny.sentences(40)
    make(settings, captions=listed(captions))
    drawn()
    new = Caption("new", "a blue boat on the field", "new")
    settings["captions"] = listed([*captions[:20], new, *captions[21:]][:39])
    make(settings)
    assert drawn() == [new.text]
    settings["captions"] = listed([*captions[:3], new, *captions[3:]])
    make(settings)
    assert drawn() == []  # drawn before, at another place
    expected, view = afresh(settings, tmp_path / "afresh")
    assert expected.items() <= files(settings["store"]).items() and Store.open(settings["store"]).view == view


def test_fewer_captions_and_the_old_ones_again_cost_nothing(tiny_synthesis, tiny, drawn):
    captions = tiny.sentences(40)
    make(tiny_synthesis, captions=listed(captions))
    whole, view = files(tiny_synthesis["store"]), Store.open(tiny_synthesis["store"]).view
    drawn()
    make(tiny_synthesis, captions=listed(captions[:-1]))
    assert len(Store.open(tiny_synthesis["store"]).images) == 39
    make(tiny_synthesis, captions=listed(captions))
    assert drawn() == [] and Store.open(tiny_synthesis["store"]).view == view
    assert whole.items() <= files(tiny_synthesis["store"]).items()


def test_a_limit_is_another_view_of_the_same_tables(tiny_synthesis, drawn):
    make(tiny_synthesis, limit=20)
    assert len(drawn()) == 20
    make(tiny_synthesis)
    assert len(drawn()) == 20  # 16 in a shard that both have, 4 copied
    store, first = tiny_synthesis["store"], Store.open(f"{tiny_synthesis['store']}/first20.json")
    whole = Store.open(store)
    assert len(first.captions) == 20 and len(whole.captions) == 40 and first.folder == whole.folder
    assert first.paths("image_features")[0] == whole.paths("image_features")[0]
    np.testing.assert_array_equal(first.images.features(), whole.images.features()[:20])
    assert first.captions.strings("id") == whole.captions.strings("id")[:20]


# ---- photos of a pool
def test_a_replaced_photo_of_a_pool_costs_its_shard_and_the_pairs(tiny_synthesis, tiny, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    for i, picture in enumerate(tiny.TinyPainter().generate(["a red dog"] * 20, list(range(20)))):
        picture.save(folder / f"{i:02d}.png")
    settings = {**tiny_synthesis, "generator": {"type": "RetrievalGenerator", "pool": {"type": "PhotoFolder", "root": str(folder)}}}  # fmt: skip
    make(settings, shard_size=8)
    before, old = files(settings["store"]), (folder / "09.png").read_bytes()
    (folder / "09.png").write_bytes((folder / "00.png").read_bytes())
    make(settings, shard_size=8)
    shards = [0, 1, 2, 3, 4]
    changed = {"images": [1], "image_features": [1], "tags": [1], "pairs": shards, "refined": shards}
    assert new_files(settings["store"], before) == changed
    (folder / "09.png").write_bytes(old)
    assert make(settings, shard_size=8)["shards_made"] == 0


# ---- settings
def changed_tables(settings, **changes):
    """Tables that a run with changed settings makes; checks that its store is the one that is made afresh."""
    before = files(settings["store"])
    make(settings, **changes)
    added = new_files(settings["store"], before)
    expected, view = afresh({**settings, **changes}, settings["store"] + "_afresh")
    assert expected.items() <= files(settings["store"]).items() and Store.open(settings["store"]).view == view
    return set(added)


@pytest.mark.parametrize(
    "changes, tables",
    [
        ({"refine": {"steps": 9, "lr": 0.01, "bank_size": 16}}, {"refined"}),
        ({"refine": None}, set()),
        ({"tokenizer": {"kind": "train", "vocab_size": 280}}, {"tokenizer"}),
        ({"tokenizer": None}, set()),
        ({"holdout": 0.3}, {"heldout", "tokenizer", "refined"}),
        ({"text_batch": 3, "image_batch": 2}, set()),
        ({"shard_size": 8}, None),  # all of them, the rows of the images copied
    ],
)
def test_changed_settings_make_what_depends_on_them(tiny_synthesis, drawn, changes, tables):
    make(tiny_synthesis)
    store = Store.open(tiny_synthesis["store"])
    drawn()
    before = files(tiny_synthesis["store"])
    make(tiny_synthesis, **changes)
    assert drawn() == [] and (tables is None or set(new_files(tiny_synthesis["store"], before)) == tables)
    assert store.refined().features().shape == (40, 32)  # who opened the store goes on with what it opened
    make(tiny_synthesis)
    assert Store.open(tiny_synthesis["store"]).view == store.view  # back without a cost


@pytest.mark.parametrize(
    "changes, tables",
    [
        ({"tag_provider": {"type": "TinyTagger", "score": 0.5}}, {"tags"}),
        ({"encoder": {"type": "TinyEncoder", "seed": 1}}, {"text_features", "image_features", "pairs", "refined"}),
    ],
)
@pytest.mark.parametrize("keep", ["png", "jpg"])
def test_other_tags_and_another_encoder_over_kept_pictures_draw_nothing(tiny_synthesis, drawn, changes, tables, keep):
    settings = {**tiny_synthesis, "keep_images": keep}
    make(settings)
    drawn()
    before = files(settings["store"])
    make(settings, **changes)
    assert drawn() == [] and set(new_files(settings["store"], before)) == tables
    expected, view = afresh({**settings, **changes}, settings["store"] + "_afresh")
    assert expected.items() <= files(settings["store"]).items() and Store.open(settings["store"]).view == view


def test_tags_of_a_pools_photos_later(tiny_synthesis):
    settings = {**tiny_synthesis, "generator": {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos"}}}
    make(settings)
    assert changed_tables(settings, tag_provider={"type": "TinyTagger", "score": 0.5}) == {"tags"}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"tag_provider": {"type": "TinyTagger", "score": 0.5}}, "tags"),
        ({"keep_images": True}, "pictures"),
        ({"generator": {"type": "TinyPainter", "size": 8}}, "size"),
        ({"seed": 1}, "seed"),
        ({"images_per_caption": 2}, "images_per_caption"),
        ({"encoder": {"type": "TinyEncoder", "seed": 1}}, "encoder"),
    ],
)
def test_pictures_are_drawn_again_when_asked_only(tiny_synthesis, drawn, changes, named):
    make(tiny_synthesis)
    before = files(tiny_synthesis["store"])
    drawn()
    for limit in (None, 20):
        with pytest.raises(UserError, match=rf"(?s){named}.*--redraw"):
            make(tiny_synthesis, limit=limit, **changes)
    assert drawn() == [] and files(tiny_synthesis["store"]) == before
    make(tiny_synthesis, redraw=True, **changes)
    assert len(drawn()) == 40 * changes.get("images_per_caption", 1)
    assert before.items() <= files(tiny_synthesis["store"]).items()
    make(tiny_synthesis)
    assert drawn() == []


# ---- what does not decide
def test_batch_sizes_and_devices_of_components_do_not_decide(tiny_synthesis, tiny, drawn):
    @MODELS.register_module(force=True)
    class BatchedPainter(tiny.TinyPainter):
        not_in_recipe = ("batch_size", "device")

        def __init__(self, size=16, batch_size=4, device="cpu"):
            super().__init__(size)

    make(tiny_synthesis, generator={"type": "BatchedPainter"})
    view = Store.open(tiny_synthesis["store"]).view
    drawn()
    generator = {"type": "BatchedPainter", "batch_size": 9, "device": "cuda:3", "size": 16}
    assert make(tiny_synthesis, generator=generator)["shards_made"] == 0 and drawn() == []
    assert Store.open(tiny_synthesis["store"]).view == view
    one, other = (Synthesis(**tiny_synthesis, device=torch.device("cpu"), text_batch=n) for n in (1, 2))
    assert one.recipes == other.recipes


def test_a_source_that_is_no_file_has_a_content(tiny_synthesis, tiny):
    """``content(index)`` says what a photo is; without it, the source's settings do."""

    @DATASETS.register_module(force=True)
    class Contents(tiny.TinyPhotos):
        def __init__(self, changed=()):
            super().__init__(num=20)
            self.changed = set(changed)

        def content(self, index):
            return index in self.changed

    settings = {**tiny_synthesis, "tag_provider": None, "refine": None, "shard_size": 8}

    def pool(**options):
        return {"generator": {"type": "RetrievalGenerator", "pool": options}}

    make(settings, **pool(type="Contents"))
    before = files(settings["store"])
    make(settings, **pool(type="Contents", changed=[9]))
    assert new_files(settings["store"], before)["image_features"] == [1]
    make(settings, **pool(type="TinyPhotos", num=20))
    before = files(settings["store"])
    make(settings, **pool(type="TinyPhotos", num=20, seed=6))
    assert new_files(settings["store"], before)["image_features"] == [0, 1, 2]


# ---- damage
@pytest.mark.parametrize(
    "table", ["texts", "text_features", "image_features", "pairs/default", "refined/default", "tokenizer"]
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_what_is_damaged_is_made_anew_and_nothing_else(tiny_synthesis, drawn, table, damage):
    make(tiny_synthesis)
    before, path = files(tiny_synthesis["store"]), Store.open(tiny_synthesis["store"]).paths(table)[-1]
    drawn()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if table == "tokenizer" else path.read_bytes()[:-20])
    assert make(tiny_synthesis)["shards_made"] == 1
    assert files(tiny_synthesis["store"]) == before and len(drawn()) == (8 if table == "image_features" else 0)


def test_a_cut_shard_of_earlier_captions_stops_nothing(tiny_synthesis, tiny, drawn):
    """Rows are copied from such shards."""
    make(tiny_synthesis, captions=listed(tiny.sentences(20)))
    for name in ("texts", "image_features"):
        path = Store.open(tiny_synthesis["store"]).paths(name)[1]
        path.write_bytes(path.read_bytes()[:-20])
    drawn()
    make(tiny_synthesis, captions=listed(tiny.sentences(30)))
    assert len(drawn()) == 14


def test_moved_captions_do_not_slip_past_the_guard(tiny_synthesis, tiny, drawn):
    captions = tiny.sentences(40)
    make(tiny_synthesis, captions=listed(captions))
    moved = listed([Caption("first", "a dog runs", "first"), *captions])
    drawn()
    with pytest.raises(UserError, match="seed"):
        make(tiny_synthesis, captions=moved, seed=1)
    with pytest.raises(UserError, match="tags is missing"):
        make(tiny_synthesis, captions=moved, tag_provider={"type": "TinyTagger", "score": 0.5})
    assert drawn() == []


def test_a_tar_without_its_index_is_what_the_index_is_made_of(tiny_synthesis, tiny):
    settings = {**tiny_synthesis, "keep_images": True}
    make(settings)
    store = Store.open(settings["store"])
    pixels = [np.asarray(store.image(row)) for row in range(16)]
    whole = files(settings["store"])
    # A worker that died between the two files, on a machine whose PNGs are of other sizes.
    for name in ("pictures", "image_features"):
        store.paths(name)[0].unlink()
    tar = store.paths("pictures")[0].with_suffix(".tar")
    with tarfile.open(tar) as members:
        entries = [(m.name, members.extractfile(m).read()) for m in members]
    with tarfile.open(tar, "w") as other:
        for name, data in entries:
            if name.endswith(".png"):
                image, out = Image.open(io.BytesIO(data)), io.BytesIO()
                image.save(out, "PNG", compress_level=0)
                data = out.getvalue()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            other.addfile(member, io.BytesIO(data))
    tables.forget_shards()  # as in a process that has not seen the old index
    make(settings, redraw=True)
    again = Store.open(settings["store"])
    for row in range(16):
        np.testing.assert_array_equal(np.asarray(again.image(row)), pixels[row])
    changed = {name for name, data in files(settings["store"]).items() if whole.get(name) != data}
    assert {name.partition("-")[0] for name in changed} == {"pictures"}


def test_a_store_of_two_encoders_is_refused(tiny_synthesis, tiny, monkeypatch):
    make(tiny_synthesis, only="text")
    init = tiny.TinyEncoder.__init__
    monkeypatch.setattr(tiny.TinyEncoder, "__init__", lambda self, *a, **k: init(self, *a, **{**k, "seed": 7}))
    with pytest.raises(UserError, match="otherwise"):
        make(tiny_synthesis)


def test_an_unfinished_store_is_not_pruned(tiny_synthesis, tiny):
    make(tiny_synthesis, only="text")
    synthesis = Synthesis(**tiny_synthesis)
    with pytest.raises(UserError, match="--configs"):
        cleaning.unused_files(synthesis.store)
    assert cleaning.unused_files(synthesis.store, synthesis.tables.values()) == []
