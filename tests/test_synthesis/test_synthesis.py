"""What a config's synthesis makes."""

import hashlib

import numpy as np
import pytest
from store_files import files, make, new_files
from tiny_store import SEARCH

from synthcap_mm.errors import UserError
from synthcap_mm.store import Store, StoreError
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import STAGES, Synthesis, seed_of
from synthcap_mm.synthesis.text import held_out


@pytest.fixture()
def said(monkeypatch):
    """Messages of the synthesis."""
    from synthcap_mm.synthesis import synthesis

    messages = []
    monkeypatch.setattr(synthesis, "print_log", lambda message, **kwargs: messages.append(message))
    return messages


# ---- the whole store
def test_a_store_comes_out(tiny_synthesis, tiny):
    counts = make(tiny_synthesis)
    expected = {"captions": 40, "images": 40, "flagged": 0, "truncated": 0, "shards_made": 14, "shards_reused": 0}
    assert counts == expected
    store, captions, encoder = Store.open(tiny_synthesis["store"]), tiny.sentences(40), tiny.TinyEncoder()
    texts = [c.text for c in captions]
    assert store.captions.strings("text") == texts
    assert store.captions.strings("group") == [c.group for c in captions]
    np.testing.assert_array_equal(store.captions.features(), encoder.encode_text(texts).numpy().astype(np.float16))
    assert store.images.strings("key") == [f"{c.id}/0" for c in captions]
    assert store.encoder == encoder.fingerprint() and store.kind == "pairs" and store.embed_dim == 32
    for row in (0, 17, 39):
        seed = seed_of(0, captions[row].id, 0)
        assert store.pairs().value("seed", row) == seed
        image = tiny.TinyPainter().generate([captions[row].text], [seed])
        np.testing.assert_allclose(store.images.feature(row), encoder.encode_pil(image)[0].numpy(), atol=1e-3)
        assert [t.name for t in store.tags(row)] == [t.name for t in tiny.TinyTagger().detect(image)[0]]
    np.testing.assert_array_equal(store.pairs().numbers("caption"), np.arange(40))
    np.testing.assert_array_equal(store.pairs().numbers("image"), np.arange(40))
    cosines = (store.captions.features().astype(float) * store.images.features().astype(float)).sum(1)
    np.testing.assert_allclose(store.pairs().numbers("score"), cosines, atol=2e-3)
    after = (store.captions.features().astype(float) * store.refined().features().astype(float)).sum(1)
    assert after.mean() > cosines.mean() + 0.01  # refine moves toward the captions


def test_a_second_run_makes_nothing_and_touches_no_file(tiny_synthesis, tiny, tmp_path):
    make(tiny_synthesis)
    stats = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    drawn = tiny.TinyPainter.drawn
    counts = make(tiny_synthesis)
    assert (counts["shards_made"], counts["shards_reused"]) == (0, 14) and tiny.TinyPainter.drawn == drawn
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == stats


def test_several_images_a_caption(tiny_synthesis):
    make(tiny_synthesis, images_per_caption=3)
    store = Store.open(tiny_synthesis["store"])
    assert len(store.images) == len(store.pairs()) == len(store.refined()) == 120
    assert store.images.strings("key")[:4] == ["c0/0", "c0/1", "c0/2", "c1/0"]
    np.testing.assert_array_equal(store.pairs().numbers("caption"), np.repeat(np.arange(40), 3))
    assert len(set(store.pairs().numbers("seed"))) == 120
    first = store.images.features(np.arange(3))
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[1], first[2])


def test_captions_only(tiny_synthesis):
    assert make(tiny_synthesis, generator=None)["images"] == 0
    store = Store.open(tiny_synthesis["store"])
    assert set(store.tables) == {"texts", "text_features", "heldout", "tokenizer"}
    assert store.tokenizer_path.is_file()
    make(tiny_synthesis, generator=None, tokenizer=None)
    with pytest.raises(StoreError, match="tokenizer"):
        Store.open(tiny_synthesis["store"]).tokenizer_path  # noqa: B018


def test_a_batch_never_crosses_a_shard(tiny_synthesis, tiny, monkeypatch):
    batches, generate = [], tiny.TinyPainter.generate
    monkeypatch.setattr(
        tiny.TinyPainter, "generate", lambda self, c, s: (batches.append(len(c)), generate(self, c, s))[1]
    )
    make(tiny_synthesis)
    assert batches == [5, 5, 5, 1, 5, 5, 5, 1, 5, 3]  # 40 in shards of 16, drawn by 5


def test_seeds_come_from_the_captions_id(tiny_synthesis, tiny):
    """The same caption, elsewhere in the file and in another shard, gets the same image."""
    captions, order = [list(c) for c in tiny.sentences(12)], [7, 3, 11, 0, 1, 10, 2, 9, 4, 8, 5, 6]
    make(tiny_synthesis, captions={"type": "ListedCaptions", "captions": captions})
    other = {**tiny_synthesis, "store": tiny_synthesis["store"] + "2", "shard_size": 5, "image_batch": 2}
    make(other, captions={"type": "ListedCaptions", "captions": [captions[i] for i in order]})
    a, b = Store.open(tiny_synthesis["store"]), Store.open(other["store"])
    for row, was in enumerate(order):
        assert b.images.value("key", row) == a.images.value("key", was)
        assert b.pairs().value("seed", row) == a.pairs().value("seed", was)
        # the tiny encoder works image by image, so that batches make no difference
        np.testing.assert_array_equal(b.images.feature(row), a.images.feature(was))
        assert (row in b.caption_rows("heldout")) == (was in a.caption_rows("heldout"))


def test_seed_of_is_fixed_for_good():
    seeds = {seed_of(s, c, j) for s in (0, 1) for c in ("c0", "c1", "c00") for j in range(3)}
    assert len(seeds) == 18 and all(0 <= s < 2**31 for s in seeds)
    digest = hashlib.blake2b(b"0/c0/0", digest_size=4).digest()
    assert seed_of(0, "c0", 0) == int.from_bytes(digest, "little") // 2


# ---- held out
@pytest.mark.parametrize(
    "groups, share, count",
    [
        (["a", "b", "c"], 0.0, 0),
        (["a", "b", "c"], 0.01, 1),
        (["a", "b", "c"], 0.99, 2),
        (["a"], 0.6, 0),
        (["a", "a"], 0.9, 0),
    ],
)
def test_some_are_held_out_and_never_all(groups, share, count):
    chosen = held_out(groups, share, 0)
    assert chosen.dtype == bool and chosen.shape == (len(groups),) and chosen.sum() == count


def test_held_out_is_about_the_share_and_appended_captions_move_no_other():
    groups = [str(i) for i in range(20_000)]
    chosen = held_out(groups, 0.02, 0)
    assert 0.017 < chosen.mean() < 0.023
    np.testing.assert_array_equal(held_out(groups[:5_000], 0.02, 0), chosen[:5_000])


def test_held_out_groups_are_whole_and_depend_on_names_and_seed_only(tiny_stores):
    store = Store.open(tiny_stores[0])
    groups, rows = np.array(store.captions.strings("group")), store.caption_rows("heldout")
    assert len(set(groups[rows])) >= 1
    assert set(np.flatnonzero(np.isin(groups, groups[rows]))) == set(rows)
    names = [str(i) for i in range(100)]
    chosen = {g for g, out in zip(names, held_out(names, 0.1, 0)) if out}
    assert chosen == {g for g, out in zip(names[::-1], held_out(names[::-1], 0.1, 0)) if out}
    assert chosen != {g for g, out in zip(names, held_out(names, 0.1, 1)) if out}


def test_the_tokenizer_has_not_seen_the_held_out(tiny_synthesis, monkeypatch):
    from synthcap_mm.synthesis import synthesis

    seen, original = [], synthesis.make_tokenizer
    monkeypatch.setattr(
        synthesis, "make_tokenizer", lambda captions, **k: (seen.extend(captions), original(captions=captions, **k))[1]
    )
    make(tiny_synthesis)
    store = Store.open(tiny_synthesis["store"])
    assert seen == [store.captions.value("text", r) for r in store.caption_rows("train")]


# ---- what is odd in the data
def test_flags_and_captions_beyond_the_context_are_counted_and_said_at_every_run(tiny_synthesis, tiny, said):
    captions = [list(c) for c in tiny.sentences(10)]
    captions[3][1] = captions[7][1] = "a blank picture of a dog"
    captions[8][1] = "a red dog " + "and a green cat " * 4
    settings = {**tiny_synthesis, "captions": {"type": "ListedCaptions", "captions": captions}, "shard_size": 4}
    for _ in range(2):
        counts = make(settings)
        assert counts["flagged"] == 2 and counts["truncated"] == 1
        assert any("1 of 10 captions" in m for m in said) and any("2 of 10 images are flagged" in m for m in said)
        said.clear()
    store = Store.open(settings["store"])
    assert store.flagged() == {"c3/0": ["black"], "c7/0": ["black"]}
    assert np.isfinite(store.refined().features()).all()


def test_a_caption_feature_that_is_not_finite_names_the_caption(tiny_synthesis, tiny, monkeypatch):
    encode = tiny.TinyEncoder.encode_text

    def broken(self, texts):
        feats = encode(self, texts)
        feats[2:3] *= float("nan")
        return feats

    monkeypatch.setattr(tiny.TinyEncoder, "encode_text", broken)
    with pytest.raises(UserError, match="'c2'"):
        make(tiny_synthesis)
    assert not [name for name in files(tiny_synthesis["store"]) if name.startswith("text_features") and "arrow" in name]


def test_another_encoder_of_the_same_settings_is_refused(tiny_synthesis, tiny, monkeypatch):
    """Other weights behind the same name: shards of two encoders never lie in one table."""
    make(tiny_synthesis)
    build = tiny.TinyEncoder.__init__
    monkeypatch.setattr(tiny.TinyEncoder, "__init__", lambda self: build(self, seed=1, name="other"))
    captions = {"type": "TinyCaptions", "num": 50}
    with pytest.raises(StoreError, match=r"'tiny'.*'other'"):
        make(tiny_synthesis, captions=captions)


# ---- settings
POOL = {"type": "PhotoFolder", "root": "nowhere"}


@pytest.mark.parametrize(
    "changes, option",
    [
        ({"store": None}, "Synthesis.store"),
        ({"holdout": 1.0}, "Synthesis.holdout"),
        ({"keep_images": "gif"}, "Synthesis.keep_images"),
        ({"refine": {"step": 3}}, "Synthesis.refine .*'step'.* steps"),
        ({"refine": {"bank_size": 0}}, "Synthesis.refine.bank_size"),
        ({"generator": {"type": "RetrievalGenerator", "pool": POOL}, "keep_images": True}, "synthesis.keep_images"),
        ({"generator": {"type": "RetrievalGenerator", "pool": POOL, "k": 3}}, "synthesis.images_per_caption"),
    ],
)
def test_impossible_settings_are_refused_by_name(tiny_synthesis, changes, option):
    with pytest.raises(UserError, match=option):
        Synthesis(**{**tiny_synthesis, **changes})


def test_no_captions_is_an_error(tiny_synthesis):
    with pytest.raises(UserError, match="no captions"):
        make(tiny_synthesis, captions={"type": "TinyCaptions", "num": 0})


def test_captions_of_one_group_are_refused_unless_none_is_to_be_held_out(tmp_path, tiny_synthesis):
    (tmp_path / "one.txt").write_text("a red dog\n")
    one = {"type": "CaptionFile", "path": str(tmp_path / "one.txt")}
    both = {"type": "ListedCaptions", "captions": [("1", "a red dog", "x.jpg"), ("2", "a dog", "x.jpg")]}
    for captions in (one, both):
        with pytest.raises(UserError, match=r"synthesis\.holdout=0"):
            make(tiny_synthesis, captions=captions)
    assert make(tiny_synthesis, captions=one, holdout=0.0)["captions"] == 1
    assert make(tiny_synthesis, limit=1)["captions"] == 1  # a try


@pytest.mark.parametrize(
    "stage, changes, option",
    [
        ("images", {"generator": None}, "synthesis.generator"),
        ("tags", {"tag_provider": None}, "synthesis.tag_provider"),
        ("refine", {"refine": None}, "synthesis.refine"),
        ("refine", {"generator": None}, "synthesis.generator"),
        ("paint", {}, "--only"),
    ],
)
def test_stages_that_the_settings_do_not_ask_for(tiny_synthesis, tmp_path, stage, changes, option):
    with pytest.raises(UserError, match=option):
        make(tiny_synthesis, only=stage, **changes)
    assert not list(tmp_path.iterdir())


# ---- one stage at a time
@pytest.mark.parametrize("keep", [False, True])
def test_one_stage_after_another_gives_the_store_of_one_run(tiny_synthesis, tiny, keep):
    settings = {**tiny_synthesis, "keep_images": keep}
    drawn = tiny.TinyPainter.drawn
    for stage in STAGES:
        with pytest.raises(StoreError):
            Store.open(settings["store"])
        make(settings, only=stage)
    assert tiny.TinyPainter.drawn - drawn == 40
    make(settings, store=settings["store"] + "2")
    assert files(settings["store"]) == files(settings["store"] + "2")
    Store.open(settings["store"])


# ---- retrieval
@pytest.fixture()
def retrieving(tiny_synthesis):
    pool = {"type": "TinyPhotos", "num": 15}
    return {**tiny_synthesis, "generator": {"type": "RetrievalGenerator", "pool": pool}, "images_per_caption": 2}


@pytest.mark.parametrize("broken", [(), (2, 9)])
def test_retrieved_pairs_point_at_the_pools_most_similar_usable_photos(retrieving, tiny, broken):
    retrieving["generator"]["pool"]["broken"] = broken
    drawn = tiny.TinyPainter.drawn
    counts = make(retrieving)
    assert counts["images"] == 15 and counts["flagged"] == len(broken)
    assert tiny.TinyPainter.drawn - drawn == 15 - len(broken)  # each photo is opened once
    store = Store.open(retrieving["store"])
    assert store.images.strings("key") == [f"photo {i}.jpg" for i in range(15)]
    similar = store.captions.features().astype(float) @ store.images.features().astype(float).T
    similar[:, broken] = -9
    found = store.pairs().numbers("image").reshape(40, 2)
    best = np.sort(similar, axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(np.take_along_axis(similar, found, 1), best, atol=2e-3)
    np.testing.assert_allclose(store.pairs().numbers("score").reshape(40, 2), best, atol=2e-3)
    assert make(retrieving)["shards_made"] == 0


@pytest.mark.parametrize("by", [("search", None), (None, "search"), ("search", "third")])
def test_a_pools_photos_are_chosen_by_other_encoders(retrieving, tiny, by):
    encoders = {**SEARCH, "third": {"type": "TinyEncoder", "dim": 16, "seed": 9, "name": "third"}}
    plain = Synthesis(**retrieving, other_encoders=encoders).recipes["pairs/default"]
    retrieving["generator"] |= dict(zip(("encoder", "heldout_encoder"), by))
    make(retrieving, other_encoders=encoders)
    store = Store.open(retrieving["store"])
    found, score = (store.pairs().numbers(column).reshape(40, 2) for column in ("image", "score"))
    heldout = np.isin(np.arange(40), store.caption_rows("heldout"))
    assert heldout.sum() == 10
    for rows, name in ((~heldout, by[0]), (heldout, by[1] or by[0])):
        texts = store.caption_features(np.flatnonzero(rows), name).astype(float)
        similar = texts @ store.image_features(name).features().astype(float).T
        best = np.sort(similar, axis=1)[:, ::-1][:, :2]
        np.testing.assert_allclose(np.take_along_axis(similar, found[rows], 1), best, atol=2e-3)
    own = store.captions.features()[:, None].astype(float) * store.images.features()[found].astype(float)
    np.testing.assert_allclose(score, own.sum(2), atol=2e-3)  # by the store's own encoder
    recipe = store.recipe("pairs/default")
    assert {**recipe, **plain} == recipe and {*recipe} - {*plain} == {
        *(("encoder",) if by[0] else ()), *(("heldout_encoder", "heldout") if by[1] else ()),
    }  # fmt: skip
    assert make(retrieving, other_encoders=encoders)["shards_made"] == 0
    with pytest.raises(UserError, match=r"synthesis\.generator\.\w*encoder='search' is none of .* \(there are none\)"):
        make(retrieving)


def test_a_pool_with_too_few_usable_photos_is_refused(retrieving):
    retrieving["generator"]["pool"] = {"type": "TinyPhotos", "num": 3, "broken": (0, 1)}
    with pytest.raises(UserError, match="images_per_caption"):
        make(retrieving)


def test_an_encoder_that_cannot_be_built_leaves_no_store(tiny_synthesis, tmp_path):
    gone = {"type": "OpenCLIPBackbone", "model_name": "ViT-B-32-quickgelu", "pretrained": str(tmp_path / "gone.pt")}
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        make(tiny_synthesis, encoder=gone)
    assert not list(tmp_path.iterdir())


def test_a_second_encoder_has_tables_of_its_own_and_changes_no_others(two_encoders, tiny_stores, tiny):
    store, other = Store.open(two_encoders[0]), tiny.TinyEncoder(dim=24, seed=7, name="other")
    assert files(tiny_stores[0]).items() <= files(two_encoders[0]).items()
    assert {*store.tables} - {*Store.open(tiny_stores[0]).tables} == {"text_features/search", "image_features/search"}
    assert store.other_encoders == {"search": other.fingerprint()} and store.encoder == tiny.TinyEncoder().fingerprint()
    assert store.recipe("image_features/search") == {
        **store.recipe("image_features"),
        "encoder": {"type": "TinyEncoder", "version": 1, "dim": 24, "name": "other", "seed": 7},
    }
    texts = other.encode_text(store.captions.strings("text")).numpy()
    np.testing.assert_allclose(store.caption_features(np.arange(40), "search"), texts, atol=1e-3)
    caption = store.captions.value("text", 3)
    picture = tiny.TinyPainter().generate([caption], [store.pairs().value("seed", 3)])
    feature = other.encode_pil(picture).numpy()[0]
    np.testing.assert_allclose(store.image_features("search").feature(3), feature, atol=1e-3)


def test_a_second_encoder_later_draws_nothing_over_kept_pictures_and_a_pool(tiny_synthesis, retrieving, tiny):
    for settings in (
        {**tiny_synthesis, "keep_images": "jpg"},
        {**retrieving, "store": tiny_synthesis["store"] + "_pool"},
    ):
        make(settings)
        before, drawn = files(settings["store"]), tiny.TinyPainter.drawn
        make(settings, other_encoders=SEARCH)
        added = new_files(settings["store"], before)
        pictures = len(Store.open(settings["store"]).images)
        assert {*added} == {"text_features", "image_features"} and len(added["text_features"]) == 3
        # Only a pool's photos are opened again, once.
        assert tiny.TinyPainter.drawn - drawn == (0 if "keep_images" in settings else pictures)
        assert make(settings, other_encoders=SEARCH)["shards_made"] == 0
        make(settings)
        assert Store.open(settings["store"]).other_encoders == {}  # what the config names


def test_pictures_are_not_drawn_anew_for_a_second_encoder_unasked(tiny_synthesis, tiny):
    make(tiny_synthesis)
    drawn = tiny.TinyPainter.drawn
    with pytest.raises(
        UserError, match=r"40 pictures.*\n  image_features/search is missing, and .*not kept\n.*--redraw"
    ):
        make(tiny_synthesis, other_encoders=SEARCH)
    assert tiny.TinyPainter.drawn == drawn
    make(tiny_synthesis, other_encoders=SEARCH, redraw=True)
    changed = {"search": {**SEARCH["search"], "seed": 8}}
    with pytest.raises(UserError, match=r"again:\n  image_features/search is missing.*\n  encoder.seed: 7 → 8\n"):
        make(tiny_synthesis, other_encoders=changed)
    # A sentence more costs its own picture, by either encoder.
    drawn = tiny.TinyPainter.drawn
    make(tiny_synthesis, other_encoders=SEARCH, captions={"type": "TinyCaptions", "num": 41})
    assert tiny.TinyPainter.drawn - drawn == 1


def test_images_that_one_encoder_has_no_feature_of_are_flagged(tiny_synthesis, tiny, monkeypatch):
    encode = tiny.TinyEncoder.encode_image

    def broken(self, pixels):
        feats = encode(self, pixels)
        if self.name == "other" and len(pixels) == 3:  # the last batch of the last shard
            feats[1] = float("nan")
        return feats

    monkeypatch.setattr(tiny.TinyEncoder, "encode_image", broken)
    make(tiny_synthesis, other_encoders=SEARCH)
    store = Store.open(tiny_synthesis["store"])
    assert store.flagged() == {"c38/0": ["non_finite"]} and np.flatnonzero(store.is_flagged).tolist() == [38]
    assert not store.images.is_set("flags").any()


def test_a_tag_provider_has_the_stores_encoder_unless_it_names_one(tiny_synthesis):
    names = {"type": "CLIPTagProvider", "vocabulary": ["a dog", "a cat"]}
    photos = {"store": "x", "photos": {"type": "TinyPhotos"}, "encoder": tiny_synthesis["encoder"]}
    for maker, settings in ((Synthesis, tiny_synthesis), (PhotoStore, photos)):
        short = maker(**{**settings, "tag_provider": names})
        long, other = (
            maker(**{**settings, "tag_provider": {**names, "encoder": encoder}})
            for encoder in (settings["encoder"], {"type": "TinyEncoder", "name": "other"})
        )
        assert short.recipes["tags"] == long.recipes["tags"] != other.recipes["tags"]
        # One model in memory.
        assert short.models.reader.tag_provider.encoder is short.models.encoder_named()
        assert other.models.reader.tag_provider.encoder.name == "other"
