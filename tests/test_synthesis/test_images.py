"""Pictures: drawn, encoded, tagged and kept; memory that runs out; errors."""

import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_files import Stopped, files, hidden, make

from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.tables import facts_of
from synthcap_mm.synthesis.image_reader import image_flags
from synthcap_mm.synthesis.memory_limits import is_out_of_memory
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import seed_of


# ---- kept pictures
def test_kept_pictures_are_the_drawn_ones_and_the_rest_is_as_without(tiny_synthesis, tiny, tiny_stores):
    make(tiny_synthesis, keep_images=True)
    store, plain = Store.open(tiny_synthesis["store"]), Store.open(tiny_stores[0])
    captions = tiny.sentences(40)
    for row in (0, 15, 16, 39):
        drawn = tiny.TinyPainter().generate([captions[row].text], [store.pairs().value("seed", row)])[0]
        assert np.array_equal(np.asarray(store.image(row)), np.asarray(drawn))
    kept, without = files(store.folder), files(plain.folder)
    assert {n: b for n, b in kept.items() if not n.startswith("pictures")} == without
    assert store.keeps_images and not plain.keeps_images
    with pytest.raises(StoreError, match="keep_images"):
        plain.image(0)
    with tarfile.open(store.paths("pictures")[1].with_suffix(".tar")) as tar:
        names = tar.getnames()
        text = tar.extractfile("c17/0.txt").read().decode()
        picture = Image.open(io.BytesIO(tar.extractfile("c17/0.png").read()))
    assert names[:4] == ["c16/0.png", "c16/0.txt", "c17/0.png", "c17/0.txt"] and text == captions[17].text
    assert np.array_equal(np.asarray(picture), np.asarray(store.image(17)))


def test_grids_lie_beside_the_features_and_the_rest_is_as_without(tiny_synthesis, tiny, tiny_stores):
    make({**tiny_synthesis, "grids": True})
    store, plain = Store.open(tiny_synthesis["store"]), Store.open(tiny_stores[0])
    assert {*store.tables} - {*plain.tables} == {"image_grids"} and store.grid_shape == (4, 48)
    assert [store.identity(name) for name in plain.tables] == [plain.identity(name) for name in plain.tables]
    encoder, painter = tiny.TinyEncoder(), tiny.TinyPainter()
    for row, caption in ((0, "c0"), (17, "c17"), (39, "c39")):
        seed = seed_of(0, caption, 0)
        (wanted,) = encoder.encode_grid(painter.generate([tiny.sentences(40)[row].text], [seed])).numpy()
        np.testing.assert_array_equal(store.grid(row), wanted.astype(np.float16))
    with pytest.raises(StoreError, match=r"synthesis\.grids=True"):
        plain.grid(0)
    # Of pictures that are at hand grids are made later, of others not unasked.
    with pytest.raises(UserError, match="image_grids is missing"):
        make({**tiny_synthesis, "grids": True, "store": tiny_stores[0]})


def test_a_sentence_in_the_middle_costs_one_grid(tiny_synthesis, tiny, monkeypatch):
    before = [list(caption) for caption in tiny.sentences(40)]
    listed = lambda captions: {"type": "ListedCaptions", "captions": captions}  # noqa: E731
    make({**tiny_synthesis, "grids": True, "captions": listed(before)})
    grids = {key: Store.open(tiny_synthesis["store"]).grid(row) for row, key in enumerate(x[0] for x in before)}
    encoded = []
    encode = tiny.TinyEncoder.encode_grid
    monkeypatch.setattr(tiny.TinyEncoder, "encode_grid", lambda self, x: encoded.extend(x) or encode(self, x))
    after = [*before[:5], ["new", "a red dog on the beach", "gn"], *before[5:]]
    make({**tiny_synthesis, "grids": True, "captions": listed(after)})
    store = Store.open(tiny_synthesis["store"])
    assert len(encoded) == 1
    for row, (key, _, _) in enumerate(after):
        assert key == "new" or np.array_equal(store.grid(row), grids[key])


def test_a_photo_that_does_not_decode_has_a_grid_of_zeros(tmp_path, tiny):
    settings = {"encoder": {"type": "TinyEncoder"}, "shard_size": 3, "image_batch": 1, "grids": True}
    PhotoStore(str(tmp_path / "p"), {"type": "TinyPhotos", "num": 6, "broken": [0, 4]}, **settings).run()
    store = Store.open(tmp_path / "p")
    assert store.grid_shape == (4, 48)
    assert [bool(store.grid(row).any()) for row in range(6)] == [False, True, True, True, False, True]


def test_an_encoder_without_places_says_so(tiny_synthesis, tiny, monkeypatch):
    monkeypatch.delattr(tiny.TinyEncoder, "encode_grid")
    with pytest.raises(UserError, match="TinyEncoder has no features of places"):
        make({**tiny_synthesis, "grids": True})


def test_of_jpg_encoder_and_tagger_see_the_kept_picture(tiny_synthesis, tiny):
    make(tiny_synthesis, keep_images="jpg")
    store, encoder = Store.open(tiny_synthesis["store"]), tiny.TinyEncoder()
    pictures = [store.image(row) for row in range(40)]
    np.testing.assert_array_equal(store.images.features(), encoder.encode_pil(pictures).numpy().astype(np.float16))
    assert [store.tags(row)[0].name for row in range(40)] == [t[0].name for t in tiny.TinyTagger().detect(pictures)]
    drawn = tiny.TinyPainter().generate([store.captions.value("text", 0)], [store.pairs().value("seed", 0)])
    assert not np.array_equal(encoder.encode_pil(drawn)[0].numpy().astype(np.float16), store.images.feature(0))


@pytest.mark.parametrize("damage", ["tar gone", "tar cut", "arrow gone"])
def test_pictures_that_got_lost_are_drawn_again(tiny_synthesis, tiny, damage):
    """What was damaged without asking; what somebody removed only when asked."""
    settings = {**tiny_synthesis, "keep_images": True}
    make(settings)
    before = files(settings["store"])
    arrow = Store.open(settings["store"]).paths("pictures")[1]
    tar, drawn = arrow.with_suffix(".tar"), tiny.TinyPainter.drawn
    if damage == "tar gone":
        tar.unlink()
    elif damage == "tar cut":
        tar.write_bytes(tar.read_bytes()[:-2000])
    else:
        arrow.unlink()
    if damage == "arrow gone":
        with pytest.raises(UserError, match=r"(?s)pictures.*--redraw"):
            make(settings)
    make(settings, redraw=damage == "arrow gone")
    assert tiny.TinyPainter.drawn - drawn == 16
    assert files(settings["store"]) == before


# ---- memory
def limited(tiny, monkeypatch, where, most, error=torch.OutOfMemoryError, after=0):
    """Memory for ``most`` pictures at once, from the ``after``-th call on."""
    owner, name = {"drawing": (tiny.TinyPainter, "generate"), "tagging": (tiny.TinyTagger, "detect")}[where]
    original, calls = getattr(owner, name), []

    def short(self, things, *rest):
        calls.append(len(things))
        if len(calls) > after and len(things) > most:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, things, *rest)

    monkeypatch.setattr(owner, name, short)
    return calls


def batch_sizes(store, table="image_features"):
    return [facts_of(path)["batch_size"] for path in store.paths(table)]


@pytest.mark.parametrize("where", ["drawing", "tagging"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(tiny_synthesis, tiny, monkeypatch, where, error):
    plain = {**tiny_synthesis, "store": tiny_synthesis["store"] + "_plain", "keep_images": True, "image_batch": 2}
    make(plain)
    limited(tiny, monkeypatch, where, 2, error)
    make(tiny_synthesis, keep_images=True)
    assert batch_sizes(Store.open(tiny_synthesis["store"])) == [2, 2, 2]
    assert files(tiny_synthesis["store"]) == files(plain["store"]) and not hidden(tiny_synthesis["store"])


def test_memory_that_runs_out_later_leaves_finished_shards_as_they_are(tiny_synthesis, tiny, monkeypatch):
    calls = limited(tiny, monkeypatch, "drawing", 2, after=6)
    counts = make(tiny_synthesis, keep_images=True)
    # the first shard of 16 took calls 1 to 4; the second failed at its third batch, and has one batch size too
    assert batch_sizes(Store.open(tiny_synthesis["store"])) == [5, 2, 2] and counts["shards_made"] == 14
    assert calls == [5, 5, 5, 1, 5, 5, 5] + [2] * 8 + [2] * 4 and not hidden(tiny_synthesis["store"])


def test_not_even_one_picture_is_an_error(tiny_synthesis, tiny, monkeypatch):
    calls = limited(tiny, monkeypatch, "drawing", 0)
    with pytest.raises(UserError, match="out of memory with a single one"):
        make(tiny_synthesis)
    assert calls == [5, 2, 1]


def test_memory_for_captions_too(tiny_synthesis, tiny, monkeypatch, tiny_stores):
    encode = tiny.TinyEncoder.encode_text

    def short(self, texts):
        if len(texts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, texts)

    monkeypatch.setattr(tiny.TinyEncoder, "encode_text", short)
    make(tiny_synthesis, text_batch=16)
    store = Store.open(tiny_synthesis["store"])
    assert batch_sizes(store, "text_features") == [4, 4, 4]
    np.testing.assert_array_equal(store.captions.features(), Store.open(tiny_stores[0]).captions.features())


@pytest.mark.parametrize(
    "error, is_it",
    [
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_it):
    assert is_out_of_memory(error) == is_it


# ---- side by side
def test_drawing_does_not_wait_for_tagging(tiny_synthesis, tiny, monkeypatch):
    """The first batch is tagged only when the second is drawn: a loop in sequence would never end."""
    second, detect, generate = threading.Event(), tiny.TinyTagger.detect, tiny.TinyPainter.generate
    batches = []

    def drawing(self, captions, seeds):
        batches.append(len(captions))
        if len(batches) == 2:
            second.set()
        return generate(self, captions, seeds)

    def tagging(self, images):
        assert second.wait(20), "the generator waits for the tags of the first batch"
        return detect(self, images)

    monkeypatch.setattr(tiny.TinyPainter, "generate", drawing)
    monkeypatch.setattr(tiny.TinyTagger, "detect", tagging)
    make(tiny_synthesis)


# ---- errors, flags
def test_a_generator_that_draws_too_few_is_an_error(tiny_synthesis, tiny, monkeypatch):
    generate = tiny.TinyPainter.generate
    monkeypatch.setattr(tiny.TinyPainter, "generate", lambda self, c, s: generate(self, c, s)[1:])
    with pytest.raises(RuntimeError, match="TinyPainter drew 4 images for 5 captions"):
        make(tiny_synthesis)


@pytest.mark.parametrize("error", [OSError("Input/output error"), Stopped()])
def test_a_photo_that_cannot_be_read_writes_no_shard(tiny_synthesis, tiny, monkeypatch, error):
    """A disk that fails for a moment is no photo that does not decode."""
    settings = {
        **tiny_synthesis,
        "generator": {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "num": 30}},
    }
    load = tiny.TinyPhotos.load

    def failing(self, i):
        if i == 20:
            raise error
        return load(self, i)

    monkeypatch.setattr(tiny.TinyPhotos, "load", failing)
    with pytest.raises(type(error)):
        make(settings)
    assert [n.split("/")[1][:5] for n in files(settings["store"]) if n.startswith("images-") and "arrow" in n] == [
        "00000"
    ]
    monkeypatch.undo()
    make(settings)
    assert not Store.open(settings["store"]).flagged()


def test_image_features_that_are_not_finite_are_flagged(tiny_synthesis, tiny, monkeypatch):
    encode = tiny.TinyEncoder.encode_image

    def broken(self, pixels):
        feats = encode(self, pixels)
        if len(pixels) == 3:  # the last batch of the last shard
            feats[1] = float("nan")
        return feats

    monkeypatch.setattr(tiny.TinyEncoder, "encode_image", broken)
    assert make(tiny_synthesis)["flagged"] == 1
    store = Store.open(tiny_synthesis["store"])
    assert store.flagged() == {"c38/0": ["non_finite"]}
    assert facts_of(store.paths("image_features")[2])["flags"] == {"non_finite": 1}
    assert np.isfinite(store.images.features()).all() and np.isfinite(store.refined().features()).all()


@pytest.mark.parametrize(
    "colour, flags", [((0, 0, 0), ["black"]), ((3, 3, 3), ["black"]), ((90, 90, 90), ["uniform"]), (None, [])]
)
def test_image_flags(colour, flags, tiny):
    image = tiny.TinyPainter().generate(["a dog"], [0])[0] if colour is None else Image.new("RGB", (50, 30), colour)
    assert image_flags(image) == flags


@pytest.mark.parametrize("keep", [False, True])
def test_stages_alone_say_what_they_need_and_draw_nothing_twice(tiny_synthesis, tiny, keep):
    settings, drawn = {**tiny_synthesis, "keep_images": keep}, tiny.TinyPainter.drawn
    with pytest.raises(NotYet, match="pictures" if keep else "image_features"):
        make(settings, only="tags")
    with pytest.raises(NotYet, match="text_features"):
        make(settings, only="images")
    with pytest.raises(NotYet, match="pairs"):
        make(settings, only="refine")
    make(settings)
    assert tiny.TinyPainter.drawn - drawn == 40


# ---- a zero-shot tagger on the same encoder
def test_a_tagger_on_the_same_encoder_gets_the_features(tiny_synthesis):
    @MODELS.register_module(force=True)
    class FeatureTagger(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = MODELS.build(encoder)

        def detect_features(self, feats):
            return [[] for _ in feats]

        def detect(self, images):
            raise AssertionError("encodes the pictures a second time")

    tagger = {"type": "FeatureTagger", "encoder": {"type": "TinyEncoder"}}
    make(tiny_synthesis, tag_provider=tagger)
    tagger["encoder"] = {"type": "TinyEncoder", "seed": 1}
    with pytest.raises(AssertionError, match="second time"):
        make(tiny_synthesis, store=tiny_synthesis["store"] + "2", tag_provider=tagger)


def test_a_store_knows_no_path_of_this_machine(tiny_synthesis, tiny_stores, tmp_path):
    """So that it can be moved: of a file there is its name and content."""
    file = Store.open(tiny_stores[0]).tokenizer_path
    make(tiny_synthesis, tokenizer={"kind": "file", "path": str(file)})
    store = Store.open(tiny_synthesis["store"])
    for path in [*Path(store.folder).rglob("*.json")]:
        assert str(tmp_path) not in path.read_text() and str(file.parent) not in path.read_text()
    assert store.tokenizer_path.read_bytes() == file.read_bytes()
