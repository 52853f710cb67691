"""Shards of images: memory that runs out, work in the background."""

import threading
from pathlib import Path

import pytest
import torch

from synthcap_mm.pairs import PairFactory
from synthcap_mm.pairs.image_shards import is_out_of_memory
from synthcap_mm.store import Store


def files(path):
    kinds = (".arrow", ".tar")
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.suffix in kinds}


@pytest.fixture()
def said(monkeypatch):
    from synthcap_mm.pairs import image_shards

    messages = []
    monkeypatch.setattr(image_shards, "print_log", lambda message, **kwargs: messages.append(message))
    return messages


@pytest.fixture()
def plain(tiny_synthesis):
    """The files of a store that was made without trouble, its pictures kept."""
    settings = {**tiny_synthesis, "store": tiny_synthesis["store"] + "_plain", "keep_images": True}
    PairFactory(**settings).run()
    return files(settings["store"])


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


@pytest.mark.parametrize("where", ["drawing", "tagging"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.cuda.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_says_so_records_it_and_goes_on(
    tiny_synthesis, tiny, monkeypatch, said, plain, where, error
):
    limited(tiny, monkeypatch, where, 2, error)
    counts = PairFactory(**{**tiny_synthesis, "keep_images": True}).run()
    store = Store.open(tiny_synthesis["store"], verify="full")
    assert [r["batch_size"] for r in store.manifest["tables"]["images"]["shards"]] == [2, 2, 2]
    assert said == ["out of memory with 5 pictures at once; going on with 2, the unfinished shard from its beginning"]
    assert counts["shards_made"] == 12 and files(store.path) == plain


def test_memory_that_runs_out_later_leaves_finished_shards_as_they_are(tiny_synthesis, tiny, monkeypatch, said, plain):
    calls = limited(tiny, monkeypatch, "drawing", 2, after=6)
    PairFactory(**{**tiny_synthesis, "keep_images": True}).run()
    store = Store.open(tiny_synthesis["store"], verify="full")
    # the first shard of 16 took calls 1 to 4; the second failed at its third batch, and has one batch size too
    assert [r["batch_size"] for r in store.manifest["tables"]["images"]["shards"]] == [5, 2, 2]
    assert calls == [5, 5, 5, 1, 5, 5, 5] + [2] * 8 + [2] * 4 and len(said) == 1
    assert files(store.path) == plain
    assert not [p for p in store.path.rglob("*") if p.name.startswith(".")]


def test_not_even_one_picture_is_an_error(tiny_synthesis, tiny, monkeypatch, said):
    limited(tiny, monkeypatch, "drawing", 0)
    with pytest.raises(RuntimeError, match="out of memory with a single one of the pictures"):
        PairFactory(**tiny_synthesis).run()
    assert [m.split(";")[0][-13:] for m in said] == ["tures at once", "tures at once"]  # 5, 2, then 1


def test_captions_too(tiny_synthesis, tiny, monkeypatch, tiny_stores):
    encode = tiny.TinyEncoder.encode_text

    def short(self, texts):
        if len(texts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, texts)

    monkeypatch.setattr(tiny.TinyEncoder, "encode_text", short)
    PairFactory(**{**tiny_synthesis, "text_batch": 16}).run()
    store = Store.open(tiny_synthesis["store"])
    assert [r["batch_size"] for r in store.manifest["tables"]["captions"]["shards"]] == [4, 4, 4]
    same = Path(tiny_stores[0], "captions/00000.arrow").read_bytes()
    assert Path(store.path, "captions/00000.arrow").read_bytes() == same


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
    PairFactory(**tiny_synthesis).run()


@pytest.mark.parametrize("batch", [1, 3])
def test_an_error_of_the_tagger_stops_the_run_and_leaves_no_half_shard(tiny_synthesis, tiny, monkeypatch, batch):
    calls, detect = [], tiny.TinyTagger.detect

    def broken(self, images):
        calls.append(1)
        if len(calls) == 4 + batch:
            raise ValueError("the detector fell over")
        return detect(self, images)

    monkeypatch.setattr(tiny.TinyTagger, "detect", broken)
    with pytest.raises(ValueError, match="fell over"):
        PairFactory(**{**tiny_synthesis, "keep_images": True}).run()
    found = files(tiny_synthesis["store"])
    assert [n for n in found if n.startswith("images")] == ["images/00000.arrow", "images_tar/00000.tar"]
    assert not list(Path(tiny_synthesis["store"]).rglob(".*"))
