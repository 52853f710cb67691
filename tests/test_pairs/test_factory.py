"""The synthesize loop."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthcap_mm.datasets.captions import Caption
from synthcap_mm.files import file_sha256
from synthcap_mm.pairs import PairFactory, encode_photos, has_store
from synthcap_mm.pairs.factory import held_out, seed_of
from synthcap_mm.pairs.image_reader import image_flags
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.stores import Store, StoreError
from synthcap_mm.stores.shards import portable
from synthcap_mm.stores.versions import settings_digest
from synthcap_mm.tokenization import make_tokenizer


@DATASETS.register_module(force=True)
class ListedCaptions:
    """Captions as they are listed: (id, text, group)."""

    def __init__(self, captions):
        self.captions = captions

    def read(self):
        return [Caption(*c) for c in self.captions]

    def describe(self):
        return f"{len(self.captions)} listed captions"


def files(path):
    """What must be the same, byte for byte."""
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in sorted(Path(path).rglob("*"))
        if p.suffix == ".arrow" or p.name == "tokenizer.json"
    }


def everything(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def listed(tiny, order=None):
    captions = [list(c) for c in tiny.sentences(12)]
    return {"type": "ListedCaptions", "captions": [captions[i] for i in order or range(12)]}


@pytest.fixture()
def whole(tiny_stores):
    """The files of an uninterrupted store with ``tiny_synthesis``'s settings."""
    return files(tiny_stores[0])


# ---- the whole loop
def test_a_store_comes_out(tiny_synthesis, tiny, whole):
    counts = PairFactory(**tiny_synthesis).run()
    assert counts == {
        "captions": 40,
        "images": 40,
        "shards_made": 12,
        "shards_reused": 0,
        "flagged": 0,
        "truncated": 0,
    }
    store = Store.open(tiny_synthesis["store"], verify="full")
    assert files(store.path) == whole and len(whole) == 13
    captions, encoder = tiny.sentences(40), tiny.TinyEncoder()
    assert store.captions.strings("text") == [c.text for c in captions]
    assert store.captions.strings("group") == [c.group for c in captions]
    np.testing.assert_array_equal(
        store.captions.features(), encoder.encode_text([c.text for c in captions]).numpy().astype(np.float16)
    )
    assert store.images.strings("key") == [f"{c.id}/0" for c in captions]
    for row in (0, 17, 39):
        seed = seed_of(0, captions[row].id, 0)
        assert store.pairs().value("seed", row) == seed
        image = tiny.TinyPainter().generate([captions[row].text], [seed])
        np.testing.assert_allclose(store.images.feature(row), encoder.encode_pil(image)[0].numpy(), atol=1e-3)
        assert store.tags(row) == [
            pytest.approx(t) if isinstance(t, float) else t for t in _stored(tiny.TinyTagger().detect(image)[0])
        ]
    np.testing.assert_array_equal(store.pairs().numbers("caption"), np.arange(40))
    np.testing.assert_array_equal(store.pairs().numbers("image"), np.arange(40))
    cosines = (store.captions.features().astype(float) * store.images.features().astype(float)).sum(1)
    np.testing.assert_allclose(store.pairs().numbers("score"), cosines, atol=2e-3)
    after = (store.captions.features().astype(float) * store.refined().features().astype(float)).sum(1)
    assert after.mean() > cosines.mean() + 0.01  # refine moves toward the captions


def _stored(tags):
    for tag in tags:
        tag.score, tag.area = float(np.float32(tag.score)), float(np.float32(tag.area))
    return tags


def test_a_second_run_makes_nothing(tiny_synthesis, tiny):
    PairFactory(**tiny_synthesis).run()
    before, drawn = everything(tiny_synthesis["store"]), tiny.TinyPainter.drawn
    stats = {p: p.stat().st_mtime_ns for p in Path(tiny_synthesis["store"]).rglob("*.arrow")}
    counts = PairFactory(**tiny_synthesis).run()
    assert counts["shards_made"] == 0 and counts["shards_reused"] == 12
    assert tiny.TinyPainter.drawn == drawn
    assert everything(tiny_synthesis["store"]) == before
    assert {p: p.stat().st_mtime_ns for p in stats} == stats


@pytest.mark.parametrize(
    "name",
    [
        "captions/00002.arrow",
        "images/00001.arrow",
        "pairs/default/00000.arrow",
        "refined/default/00001.arrow",
        "tokenizer.json",
    ],
)
@pytest.mark.parametrize("damage", ["delete", "flip", "truncate"])
def test_what_is_damaged_is_made_again_and_nothing_else(tiny_synthesis, tiny, whole, name, damage):
    PairFactory(**tiny_synthesis).run()
    path = Path(tiny_synthesis["store"], name)
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2])
    assert not has_store(tiny_synthesis["store"])
    drawn = tiny.TinyPainter.drawn
    counts = PairFactory(**tiny_synthesis).run()
    assert counts["shards_made"] == (0 if name == "tokenizer.json" else 1)
    assert tiny.TinyPainter.drawn - drawn == (16 if name.startswith("images") else 0)
    assert files(tiny_synthesis["store"]) == whole
    assert has_store(tiny_synthesis["store"])


class Stopped(BaseException):
    """Like KeyboardInterrupt, and ours."""


@pytest.mark.parametrize("after", [0, 3, 20, 37])
def test_an_interrupted_run_goes_on_where_it_was(tiny_synthesis, tiny, whole, monkeypatch, after):
    generate, start = tiny.TinyPainter.generate, tiny.TinyPainter.drawn

    def stopping(self, captions, seeds):
        if tiny.TinyPainter.drawn - start + len(captions) > after:
            raise Stopped
        return generate(self, captions, seeds)

    monkeypatch.setattr(tiny.TinyPainter, "generate", stopping)
    with pytest.raises(Stopped):
        PairFactory(**tiny_synthesis).run()
    monkeypatch.setattr(tiny.TinyPainter, "generate", generate)
    done = {n: b for n, b in files(tiny_synthesis["store"]).items() if n.startswith("images")}
    finished = after // 16
    assert len(done) == finished  # no part of the shard that was being drawn
    with pytest.raises(StoreError, match="not finished"):
        Store.open(tiny_synthesis["store"])
    drawn = tiny.TinyPainter.drawn
    counts = PairFactory(**tiny_synthesis).run()
    assert tiny.TinyPainter.drawn - drawn == 40 - 16 * finished
    assert counts["shards_reused"] == 3 + finished
    assert files(tiny_synthesis["store"]) == whole


@pytest.mark.parametrize("stage", ["_pair_drawn", "_refine", "_tokenizer"])
def test_an_interruption_in_another_stage(tiny_synthesis, tiny, whole, monkeypatch, stage):
    original, calls = getattr(PairFactory, stage), []

    def stopping(self, *args):
        calls.append(1)
        if stage == "_tokenizer" or len(calls) == 2:
            raise Stopped
        return original(self, *args)

    monkeypatch.setattr(PairFactory, stage, stopping)
    with pytest.raises(Stopped):
        PairFactory(**tiny_synthesis).run()
    monkeypatch.setattr(PairFactory, stage, original)
    PairFactory(**tiny_synthesis).run()
    assert files(tiny_synthesis["store"]) == whole


def test_a_batch_never_crosses_a_shard(tiny_synthesis, tiny, monkeypatch):
    batches, generate = [], tiny.TinyPainter.generate

    def watching(self, captions, seeds):
        batches.append(len(captions))
        return generate(self, captions, seeds)

    monkeypatch.setattr(tiny.TinyPainter, "generate", watching)
    PairFactory(**tiny_synthesis).run()
    assert batches == [5, 5, 5, 1, 5, 5, 5, 1, 5, 3]  # 40 in shards of 16, drawn by 5


def test_several_images_a_caption(tiny_synthesis, tiny):
    PairFactory(**{**tiny_synthesis, "images_per_caption": 3}).run()
    store = Store.open(tiny_synthesis["store"])
    assert len(store.images) == len(store.pairs()) == len(store.refined()) == 120
    assert store.images.strings("key")[:4] == ["c0/0", "c0/1", "c0/2", "c1/0"]
    np.testing.assert_array_equal(store.pairs().numbers("caption"), np.repeat(np.arange(40), 3))
    np.testing.assert_array_equal(store.pairs().numbers("image"), np.arange(120))
    assert len(set(store.pairs().numbers("seed"))) == 120
    first = store.images.features(np.arange(3))
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])


def test_captions_only(tiny_synthesis):
    counts = PairFactory(**{**tiny_synthesis, "generator": None}).run()
    assert counts["images"] == 0 and counts["captions"] == 40
    store = Store.open(tiny_synthesis["store"])
    assert set(store.manifest["tables"]) == {"captions"}
    assert store.tokenizer_path.is_file()


# ---- seeds and order
def test_seeds_come_from_the_captions_id(tiny_synthesis, tiny):
    """The same caption, elsewhere in the file and in another shard, gets the same image."""
    PairFactory(**{**tiny_synthesis, "captions": listed(tiny)}).run()
    order = [7, 3, 11, 0, 1, 10, 2, 9, 4, 8, 5, 6]
    other = {**tiny_synthesis, "store": tiny_synthesis["store"] + "2", "shard_size": 5, "image_batch": 2}
    PairFactory(**{**other, "captions": listed(tiny, order)}).run()
    a, b = Store.open(tiny_synthesis["store"]), Store.open(other["store"])
    for row, was in enumerate(order):
        assert b.images.value("key", row) == a.images.value("key", was)
        assert b.pairs().value("seed", row) == a.pairs().value("seed", was)
        # the tiny encoder works image by image, so that batches make no difference
        np.testing.assert_array_equal(b.images.feature(row), a.images.feature(was))
        assert b.captions.value("heldout", row) == a.captions.value("heldout", was)


def test_seed_of_is_fixed_for_good():
    assert seed_of(0, "c0", 0) == seed_of(0, "c0", 0)
    seeds = {seed_of(s, c, j) for s in (0, 1) for c in ("c0", "c1", "c00") for j in range(3)}
    assert len(seeds) == 18 and all(0 <= s < 2**31 for s in seeds)
    digest = hashlib.blake2b(b"0/c0/0", digest_size=4).digest()
    assert seed_of(0, "c0", 0) == int.from_bytes(digest, "little") // 2


# ---- held out
def test_held_out_groups_are_whole_and_at_least_one(tiny_stores):
    store = Store.open(tiny_stores[0])
    groups = np.array(store.captions.strings("group"))
    rows = store.caption_rows("heldout")
    assert len(set(groups[rows])) == 2  # 10 % of 20 groups
    assert set(np.flatnonzero(np.isin(groups, groups[rows]))) == set(rows)


@pytest.mark.parametrize(
    "groups, share, count",
    [
        (["a", "b", "c"], 0.0, 0),
        (["a", "b", "c"], 0.01, 1),
        (["a", "b", "c"], 0.99, 2),
        (["a"], 0.6, 0),
        (["a", "a"], 0.9, 0),
        ([], 0.5, 0),
        ([str(i) for i in range(1000)], 0.02, 20),
    ],
)
def test_held_out_shares(groups, share, count):
    chosen = held_out(groups, share, 0)
    assert chosen.dtype == bool and chosen.shape == (len(groups),)
    assert chosen.sum() == count


def test_held_out_depends_on_names_and_seed_only():
    groups = [str(i) for i in range(100)]
    chosen = {g for g, out in zip(groups, held_out(groups, 0.1, 0)) if out}
    backwards = groups[::-1]
    assert chosen == {g for g, out in zip(backwards, held_out(backwards, 0.1, 0)) if out}
    assert chosen != {g for g, out in zip(groups, held_out(groups, 0.1, 1)) if out}


def test_the_tokenizer_has_not_seen_the_held_out(tiny_synthesis, monkeypatch):
    from synthcap_mm.pairs import factory

    seen, make = [], factory.make_tokenizer
    monkeypatch.setattr(
        factory, "make_tokenizer", lambda captions, **k: seen.extend(captions) or make("train", captions)
    )
    PairFactory(**tiny_synthesis).run()
    store = Store.open(tiny_synthesis["store"])
    assert seen == [store.captions.value("text", r) for r in store.caption_rows("train")]


# ---- refusals
@pytest.mark.parametrize(
    "changes, told",
    [
        ({"seed": 1}, "seed: the store has 0, the config asks for 1"),
        ({"shard_size": 8}, "shard_size"),
        ({"generator": {"type": "TinyPainter", "size": 8}}, "generator.size: the store has 16, the config asks for 8"),
        ({"tag_provider": {"type": "TinyTagger", "score": 0.5}}, "tag_provider.score"),
        ({"captions": {"type": "TinyCaptions", "num": 39}}, "captions.count: the store has 40"),
        ({"captions": {"type": "TinyCaptions", "num": 40, "seed": 1}}, "captions.sha256"),
        ({"images_per_caption": 2}, "images_per_caption"),
        ({"holdout": 0.2}, "holdout"),
        ({"generator": None}, "generator"),
    ],
)
def test_a_store_with_other_settings_is_refused_and_not_touched(tiny_synthesis, tiny_stores, tiny, changes, told):
    path = tiny_stores[0]
    before, drawn = everything(path), tiny.TinyPainter.drawn
    with pytest.raises(StoreError) as caught:
        PairFactory(**{**tiny_synthesis, "store": path, **changes}).run()
    assert told in str(caught.value)
    assert "holdout" not in str(caught.value) or "holdout" in told
    assert everything(path) == before and tiny.TinyPainter.drawn == drawn


def test_another_encoder_is_refused_with_both_names(tiny_synthesis, tiny_stores):
    other = {"type": "TinyEncoder", "seed": 1, "name": "other"}
    with pytest.raises(StoreError) as caught:
        PairFactory(**{**tiny_synthesis, "store": tiny_stores[0], "encoder": other}).run()
    assert "'tiny'" in str(caught.value) and "'other'" in str(caught.value)


@pytest.mark.parametrize("changes", [{"holdout": 1.0}, {"holdout": -0.1}, {"shard_size": 0}, {"image_batch": 0}])
def test_impossible_settings_are_refused_by_name(tiny_synthesis, changes):
    with pytest.raises(ValueError, match=rf"synthesis.{next(iter(changes))}"):
        PairFactory(**{**tiny_synthesis, **changes})


def test_no_captions_is_an_error(tiny_synthesis):
    with pytest.raises(ValueError, match="no captions"):
        PairFactory(**{**tiny_synthesis, "captions": {"type": "TinyCaptions", "num": 0}}).run()


def test_a_caption_feature_that_is_not_finite_names_the_caption(tiny_synthesis, tiny, monkeypatch):
    encode = tiny.TinyEncoder.encode_text

    def broken(self, texts):
        feats = encode(self, texts)
        feats[2 if len(texts) > 2 else 0 : 3] *= float("nan") if len(texts) > 2 else 1
        return feats

    monkeypatch.setattr(tiny.TinyEncoder, "encode_text", broken)
    with pytest.raises(ValueError, match=r"not finite.*'c2'"):
        PairFactory(**tiny_synthesis).run()


def test_a_generator_that_draws_too_few_is_told(tiny_synthesis, tiny, monkeypatch):
    generate = tiny.TinyPainter.generate
    monkeypatch.setattr(tiny.TinyPainter, "generate", lambda self, c, s: generate(self, c, s)[1:])
    with pytest.raises(RuntimeError, match="TinyPainter drew 4 images for 5 captions"):
        PairFactory(**tiny_synthesis).run()


# ---- what is odd in the data
def odd_captions(tiny):
    captions = [list(c) for c in tiny.sentences(10)]
    captions[3][1] = "a blank picture of a dog"
    captions[7][1] = "a red dog " + "and a green cat " * 4
    return {"type": "ListedCaptions", "captions": captions}


def test_pictures_that_show_nothing_are_flagged_and_counted(tiny_synthesis, tiny, caplog):
    counts = PairFactory(**{**tiny_synthesis, "captions": odd_captions(tiny), "shard_size": 4}).run()
    assert counts["flagged"] == 1
    store = Store.open(tiny_synthesis["store"])
    assert np.flatnonzero(store.images.is_set("flags")).tolist() == [3]
    assert store.images.value("flags", 3) == ["black"]
    assert np.isfinite(store.refined().features()).all()


def test_captions_beyond_the_context_are_counted_and_said(tiny_synthesis, tiny, monkeypatch):
    from synthcap_mm.pairs import factory

    said = []
    monkeypatch.setattr(factory, "print_log", lambda message, **kwargs: said.append(message))
    counts = PairFactory(**{**tiny_synthesis, "captions": odd_captions(tiny), "shard_size": 4}).run()
    assert counts["truncated"] == 1
    assert any("1 of 10 captions are longer than the encoder's context" in m for m in said)
    assert any("1 of 10 images are flagged" in m for m in said)
    assert PairFactory(**{**tiny_synthesis, "captions": odd_captions(tiny), "shard_size": 4}).run()["truncated"] == 1


def test_image_features_that_are_not_finite_are_flagged(tiny_synthesis, tiny, monkeypatch):
    encode = tiny.TinyEncoder.encode_image

    def broken(self, pixels):
        feats = encode(self, pixels)
        if len(pixels) == 3:  # the last batch of the last shard
            feats[1] = float("nan")
        return feats

    monkeypatch.setattr(tiny.TinyEncoder, "encode_image", broken)
    counts = PairFactory(**tiny_synthesis).run()
    store = Store.open(tiny_synthesis["store"])
    assert counts["flagged"] == 1 and store.images.value("flags", 38) == ["non_finite"]
    assert np.isfinite(store.images.features()).all() and np.isfinite(store.refined().features()).all()


@pytest.mark.parametrize(
    "colour, flags", [((0, 0, 0), ["black"]), ((3, 3, 3), ["black"]), ((90, 90, 90), ["uniform"]), (None, [])]
)
def test_image_flags(colour, flags, tiny):

    image = tiny.TinyPainter().generate(["a dog"], [0])[0] if colour is None else Image.new("RGB", (50, 30), colour)
    assert image_flags(image) == flags


# ---- retrieval
@pytest.fixture()
def retrieving(tiny_synthesis):
    try:
        MODELS.get("RetrievalGenerator")
    except KeyError:
        pytest.skip("no RetrievalGenerator yet")
    pool = {"type": "TinyPhotos", "num": 15}
    return {**tiny_synthesis, "generator": {"type": "RetrievalGenerator", "pool": pool}, "images_per_caption": 2}


def test_retrieved_pairs_point_at_the_pools_most_similar_photos(retrieving, tiny):
    tiny_drawn = tiny.TinyPainter.drawn
    counts = PairFactory(**retrieving).run()
    assert counts["images"] == 15
    assert tiny.TinyPainter.drawn - tiny_drawn == 15  # each photo is opened once
    store = Store.open(retrieving["store"])
    assert store.images.strings("key") == [f"photo {i}.jpg" for i in range(15)]
    similar = store.captions.features().astype(float) @ store.images.features().astype(float).T
    found = store.pairs().numbers("image").reshape(40, 2)
    best = np.sort(similar, axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(np.take_along_axis(similar, found, 1), best, atol=2e-3)
    np.testing.assert_allclose(store.pairs().numbers("score").reshape(40, 2), best, atol=2e-3)
    assert PairFactory(**retrieving).run()["shards_made"] == 0


def test_another_number_of_images_in_the_generator_is_refused_and_the_same_is_not(retrieving, tiny):
    retrieving["generator"]["k"] = 3
    drawn = tiny.TinyPainter.drawn
    with pytest.raises(ValueError, match="set images_per_caption=3 and leave k out"):
        PairFactory(**retrieving).run()
    assert tiny.TinyPainter.drawn == drawn and not Path(retrieving["store"], "manifest.json").exists()
    retrieving["generator"]["k"] = 2
    PairFactory(**retrieving).run()
    assert len(Store.open(retrieving["store"]).pairs()) == 80


def test_flagged_photos_of_the_pool_are_not_retrieved(retrieving):
    retrieving["generator"]["pool"]["broken"] = (2, 9)
    counts = PairFactory(**retrieving).run()
    store = Store.open(retrieving["store"])
    assert counts["flagged"] == 2
    assert not {2, 9} & set(store.pairs().numbers("image"))
    similar = store.captions.features().astype(float) @ store.images.features().astype(float).T
    similar[:, [2, 9]] = -9
    found = store.pairs().numbers("image").reshape(40, 2)
    best = np.sort(similar, axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(np.take_along_axis(similar, found, 1), best, atol=2e-3)


# ---- ranks
RANK = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch, torch.distributed as dist
rank, world, meeting, kwargs, photos = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], *map(json.loads, sys.argv[5:])
torch.set_num_threads(1)
import components
from mmengine.registry import init_default_scope
init_default_scope("synthcap_mm")
from synthcap_mm.pairs import PairFactory, encode_photos
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=world)
counts = PairFactory(**kwargs).run()
found = encode_photos(**photos)
print(json.dumps([counts, found]), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def test_two_ranks_make_the_same_store_as_one(tiny_synthesis, tiny_stores, tmp_path, whole):
    photos = {
        "store": str(tmp_path / "photos"),
        "photos": {"type": "TinyPhotos"},
        "encoder": {"type": "TinyEncoder"},
        "tag_provider": {"type": "TinyTagger"},
        "shard_size": 5,
    }
    root = Path(__file__).resolve().parents[2]
    paths = json.dumps([str(root), str(root / "tests")])
    arguments = [str(tmp_path / "meeting"), json.dumps(tiny_synthesis), json.dumps(photos)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, paths, str(rank), "2", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:  # one that failed leaves the other waiting for it
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs[0][1][-2000:] + outputs[1][1][-2000:]
    results = [json.loads(out.strip().splitlines()[-1]) for out, _ in outputs]
    for counts, _ in results:  # sums over ranks, known to all
        assert counts["shards_made"] == 12 and counts["shards_reused"] == 0 and counts["captions"] == 40
    assert files(tiny_synthesis["store"]) == whole
    assert files(tmp_path / "photos") == files(tiny_stores[1])
    assert results[0][1]["shards_made"] == 3


# ---- photos
def photo_settings(tmp_path, **photos):
    return {
        "store": str(tmp_path / "photos"),
        "photos": {"type": "TinyPhotos", **photos},
        "encoder": {"type": "TinyEncoder"},
        "tag_provider": {"type": "TinyTagger"},
        "shard_size": 5,
    }


def test_photos_and_their_references_are_stored(tmp_path, tiny):
    settings = photo_settings(tmp_path)
    assert encode_photos(**settings) == {"photos": 12, "shards_made": 3, "shards_reused": 0, "flagged": 0}
    before = everything(tmp_path / "photos")
    assert encode_photos(**settings) == {"photos": 12, "shards_made": 0, "shards_reused": 3, "flagged": 0}
    assert everything(tmp_path / "photos") == before
    store = Store.open(tmp_path / "photos", verify="full")
    source = tiny.TinyPhotos()
    assert store.images.strings("key") == source.keys
    assert store.captions.strings("text") == [t for i in range(12) for t in source.references(i)]
    features = tiny.TinyEncoder().encode_pil([source.load(i) for i in range(12)])
    np.testing.assert_allclose(store.images.features(), features.numpy(), atol=1e-3)


def test_a_photo_that_does_not_decode_is_flagged_and_tried_again(tmp_path, tiny, monkeypatch):
    settings = photo_settings(tmp_path, broken=[7])
    assert encode_photos(**settings)["flagged"] == 1
    store = Store.open(tmp_path / "photos")
    assert store.images.value("flags", 7) == ["undecodable"]
    monkeypatch.setattr(tiny.TinyPhotos, "load", lambda self, i: tiny.TinyPainter().generate(["a red dog"], [i])[0])
    assert encode_photos(**settings) == {"photos": 12, "shards_made": 1, "shards_reused": 2, "flagged": 0}


def test_other_photos_are_refused(tmp_path):
    encode_photos(**photo_settings(tmp_path))
    with pytest.raises(StoreError, match=r"photos\.count: the store has 12, the config asks for 11"):
        encode_photos(**photo_settings(tmp_path, num=11))


@pytest.fixture()
def photo_files(tmp_path, tiny):
    """Settings of a store of twelve files, in shards of five."""
    for i, picture in enumerate(tiny.TinyPainter().generate(["a red dog"] * 12, list(range(12)))):
        picture.save(tmp_path / f"{i:02d}.png")
    photos = {"type": "PhotoFolder", "root": str(tmp_path), "references": {"03.png": ["a dog"]}}
    return {
        "store": str(tmp_path / "photos"),
        "photos": photos,
        "encoder": {"type": "TinyEncoder"},
        "tag_provider": {"type": "TinyTagger"},
        "shard_size": 5,
    }


def test_a_photo_that_was_replaced_costs_its_shard_only(photo_files, tmp_path):
    encode_photos(**photo_files)
    before = files(photo_files["store"])
    old = (tmp_path / "06.png").read_bytes()
    (tmp_path / "06.png").write_bytes((tmp_path / "07.png").read_bytes())
    assert encode_photos(**photo_files) == {"photos": 12, "shards_made": 1, "shards_reused": 2, "flagged": 0}
    after = files(photo_files["store"])
    assert {n for n in before if before[n] != after[n]} == {"images/00001.arrow"}
    assert encode_photos(**photo_files)["shards_made"] == 0
    (tmp_path / "06.png").write_bytes(old)
    assert encode_photos(**photo_files)["shards_made"] == 1
    assert files(photo_files["store"]) == before


def test_a_photo_of_the_same_size_and_other_bytes_is_noticed(photo_files, tmp_path):
    encode_photos(**photo_files)
    content = bytearray((tmp_path / "11.png").read_bytes())
    content[-1] ^= 1  # of the last chunk's checksum, which Pillow does not read
    (tmp_path / "11.png").write_bytes(content)
    assert encode_photos(**photo_files)["shards_made"] == 1


def test_a_store_whose_photos_were_compared_by_size_is_taken_over(photo_files, tmp_path):
    encode_photos(**photo_files)
    file = Path(photo_files["store"], "manifest.json")
    old = json.loads(file.read_text())
    old["photos"]["sha256"] = DATASETS.build(photo_files["photos"]).sha256()
    for record in old["tables"]["images"]["shards"]:
        del record["photos_sha256"]
    file.write_text(json.dumps(old))
    assert encode_photos(**photo_files)["shards_made"] == 0
    (tmp_path / "00.png").write_bytes((tmp_path / "07.png").read_bytes())
    assert encode_photos(**photo_files)["shards_made"] == 1
    (tmp_path / "11.png").unlink()
    with pytest.raises(StoreError, match=r"photos\.count"):
        encode_photos(**photo_files)


def test_other_references_are_other_photos(photo_files):
    encode_photos(**photo_files)
    photo_files["photos"]["references"]["03.png"] = ["a cat"]
    with pytest.raises(StoreError, match=r"photos\.sha256"):
        encode_photos(**photo_files)


# ---- a zero-shot tagger on the same encoder
@MODELS.register_module(force=True)
class FeatureTagger(torch.nn.Module):
    """Tags by feature; says so when it has to look at the picture."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = MODELS.build(encoder)

    def detect_features(self, feats):
        return [[] for _ in feats]

    def detect(self, images):
        raise AssertionError("encodes the pictures a second time")

    def provenance(self):
        return {"type": "FeatureTagger"}


def test_a_tagger_on_the_same_encoder_gets_the_features(tiny_synthesis):
    tagger = {"type": "FeatureTagger", "encoder": {"type": "TinyEncoder"}}
    PairFactory(**{**tiny_synthesis, "tag_provider": tagger}).run()
    tagger["encoder"] = {"type": "TinyEncoder", "seed": 1}
    other = {**tiny_synthesis, "store": tiny_synthesis["store"] + "2", "tag_provider": tagger}
    with pytest.raises(AssertionError, match="second time"):
        PairFactory(**other).run()


def test_a_store_knows_no_path_of_this_machine(tiny_synthesis, tiny_stores, tmp_path):
    """So that it can be moved; the tokenizer's file is kept by name."""
    file = str(Store.open(tiny_stores[0]).tokenizer_path)
    PairFactory(**{**tiny_synthesis, "tokenizer": {"kind": "file", "path": file}}).run()
    manifest = Path(tiny_synthesis["store"], "manifest.json").read_text()
    assert str(tmp_path) not in manifest and str(Path(file).parent) not in manifest
    known = {"file": "tokenizer.json", "sha256": file_sha256(file)}
    assert json.loads(manifest)["tokenizer_settings"] == {"kind": "file", "path": known}
    assert Path(tiny_synthesis["store"], "tokenizer.json").read_bytes() == Path(file).read_bytes()


def test_a_tokenizer_file_with_other_content_is_taken_over(tiny_synthesis, tiny_stores, tmp_path):
    file = tmp_path / "words.json"
    file.write_bytes(Store.open(tiny_stores[0]).tokenizer_path.read_bytes())
    settings = {**tiny_synthesis, "tokenizer": {"kind": "file", "path": str(file)}}
    PairFactory(**settings).run()
    PairFactory(**settings).run()
    before = Store.open(settings["store"]).manifest
    file.write_text(make_tokenizer("train", ["a dog", "two dogs"], vocab_size=262).to_str(pretty=False))
    assert PairFactory(**settings).run()["shards_made"] == 0
    after = Store.open(settings["store"]).manifest
    assert after["tokenizer"]["sha256"] == file_sha256(file) != before["tokenizer"]["sha256"]
    assert after["tables"] == before["tables"]


class FiledTagger:
    """A tag provider whose encoder is a local file."""

    def __init__(self, file):
        self.file = file

    def detect(self, images):
        return [[] for _ in images]

    def provenance(self):
        return {"type": "FiledTagger", "encoder": "clip.pt", "encoder_files": portable([self.file])}


def test_tags_by_another_local_file_are_noticed_and_a_store_that_did_not_record_it_is_kept(
    tiny_synthesis, tiny, tmp_path
):
    MODELS.register_module(name="FiledTagger", module=FiledTagger, force=True)
    (tmp_path / "clip.pt").write_bytes(b"one")
    settings = {**tiny_synthesis, "tag_provider": {"type": "FiledTagger", "file": str(tmp_path / "clip.pt")}}
    PairFactory(**settings).run()
    file = Path(settings["store"], "manifest.json")
    manifest = json.loads(file.read_text())
    del manifest["tag_provider"]["encoder_files"]
    for record in manifest["tables"]["images"]["shards"]:
        record["tags"] = settings_digest(manifest["tag_provider"])
    file.write_text(json.dumps(manifest))
    drawn = tiny.TinyPainter.drawn
    assert PairFactory(**settings).run()["shards_made"] == 0 and tiny.TinyPainter.drawn == drawn
    (tmp_path / "clip.pt").write_bytes(b"two")
    with pytest.raises(StoreError, match=r"tag_provider\.encoder_files"):
        PairFactory(**settings).run()
