"""Another pairs table: against a dense float64 reference, by ranks, after interruptions, and with bad input."""

import itertools

import numpy as np
import pytest
import torch
from random_store import make_store, unit
from store_files import Stopped, files, hidden, make, new_files

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.store import Store, StoreError, Table
from synthcap_mm.structures import Tag
from synthcap_mm.synthesis.agreement import TagAgreement
from synthcap_mm.synthesis.curation import Curation, report_table
from synthcap_mm.synthesis.curation_steps import best
from synthcap_mm.synthesis.run import Worker

HELDOUT = (3, 40, 41, 90)
FLAGGED = (5, 17, 60, 61)


@pytest.fixture()
def store(tmp_path):
    """120 captions of one image each; some flagged, some held out."""
    return make_store(tmp_path / "store", flagged=FLAGGED, heldout=HELDOUT)


def table(path, name):
    pairs = Store.open(path).pairs(name)
    return {c: pairs.numbers(c) for c in ("caption", "image", "seed", "score")}


def features(path, encoder=None):
    store = Store.open(path)
    tables = (store.text_features(encoder), store.image_features(encoder))
    # as they are read: float16 in the store, unit length in float32
    as_read = [unit(t.features()).astype(np.float32).astype(np.float64) for t in tables]
    return as_read[0], as_read[1], ~store.images.is_set("flags")


def dense_reassignment(
    path, sentences=None, images_looked_at=15, captions_looked_at=2, keep=0.9, agreement=None, encoder=None
):
    """SynC by two whole matrices in float64: caption → image, for the captions that are kept.

    ``agreement(caption row, image row)`` is added to the score, and the caption's image is looked at too.
    """
    sentences = features(path)[0] if sentences is None else sentences
    text, image, usable = features(path, encoder)
    pairs = table(path, "default")
    heldout = np.isin(np.arange(len(text)), HELDOUT)
    only_heldout = np.isin(np.arange(len(image)), pairs["image"][heldout[pairs["caption"]]])
    allowed = np.flatnonzero(usable & ~only_heldout)
    captions = np.unique(pairs["caption"][usable[pairs["image"]] & ~heldout[pairs["caption"]]])
    similarity = text[captions] @ image[allowed].T
    chosen, scores, clip = [], [], []
    for c in range(len(captions)):
        top = np.argsort(-similarity[c], kind="stable")[:images_looked_at]
        if agreement:
            present = pairs["image"][(pairs["caption"] == captions[c]) & usable[pairs["image"]]][0]
            top = np.append(top, np.flatnonzero(allowed == present))
        own = []
        for i in top:
            leads_to = np.argsort(-similarity[:, i], kind="stable")[:captions_looked_at]
            score = max(sentences[captions[leads_to]] @ sentences[captions[c]])
            own.append(round(score + (agreement(captions[c], allowed[i]) if agreement else 0), 6))
        at = int(np.argmax(own))
        chosen.append(allowed[top[at]])
        scores.append(own[at])
        clip.append(similarity[c, top[at]])
    order = sorted(range(len(captions)), key=lambda c: (-scores[c], -clip[c], captions[c]))
    kept = sorted(order[: int(keep * len(captions) + 0.5)])
    return {int(captions[c]): int(chosen[c]) for c in kept}


REASSIGN, FILTER = {"type": "reassign"}, {"type": "clip_score"}


def curate(path, *steps, **options):
    """The report of a curation on the CPU."""
    return Curation(path, list(steps), **options, device="cpu").run()


# ---- the steps
@pytest.mark.parametrize("part_size, block", [(4096, 8192), (7, 10)])
def test_reassignment_is_that_of_dense_float64(store, part_size, block):
    report = Curation(store, [{"type": "reassign"}], part_size=part_size, block=block, device="cpu").run()
    made = table(store, "curated")
    train = ~np.isin(made["caption"], HELDOUT)
    expected = dense_reassignment(store)
    assert dict(zip(made["caption"][train].tolist(), made["image"][train].tolist())) == expected
    assert 80 < len(expected) < 110 and report["kept"] == len(expected) / 112
    text, image, _ = features(store)
    np.testing.assert_allclose(made["score"], (text[made["caption"]] * image[made["image"]]).sum(1), atol=1e-3)
    # an image keeps its seed, whichever caption it goes to
    assert (made["seed"] == 1000 + made["image"]).all()
    assert 0 < report["steps"][0]["reassigned"] < 1


def test_reassignment_by_another_sentence_encoder(store, tiny):
    encoder = tiny.TinyEncoder()
    sentences = encoder.encode_text([f"caption number {i}" for i in range(120)]).double().numpy()
    sentences = unit(unit(sentences).astype(np.float16)).astype(np.float32).astype(np.float64)
    Curation(
        store,
        [{"type": "reassign"}],
        sentence_encoder={"type": "TinyEncoder"},
        part_size=50,
        text_batch=9,
        device="cpu",
    ).run()
    made = table(store, "curated")
    train = ~np.isin(made["caption"], HELDOUT)
    assert dict(zip(made["caption"][train].tolist(), made["image"][train].tolist())) == dense_reassignment(
        store, sentences
    )


@pytest.mark.parametrize("agreement", [None, lambda c, i: 0.5 * (c % 4 == i % 4)])
def test_reassignment_by_another_encoders_search(tmp_path, agreement, monkeypatch):
    path = make_store(tmp_path / "two", flagged=FLAGGED, heldout=HELDOUT, search=24)
    step = dict(REASSIGN)
    if agreement is not None:
        step["agreement"] = {"entities": ENTITIES, "weight": 0.5}
        agrees = lambda self, store, captions, images: (captions[:, None] % 4 == images % 4).astype(float)  # noqa: E731
        monkeypatch.setattr(TagAgreement, "of", agrees)
    curate(path, step, search_encoder="search", recall=False)
    made, train = table(path, "curated"), ~np.isin(table(path, "curated")["caption"], HELDOUT)
    found = dict(zip(made["caption"][train].tolist(), made["image"][train].tolist()))
    assert found == dense_reassignment(path, agreement=agreement, encoder="search") != dense_reassignment(path)
    text, image, _ = features(path)  # scores are the store's own encoder's
    np.testing.assert_allclose(made["score"], (text[made["caption"]] * image[made["image"]]).sum(1), atol=1e-3)
    recipe = Store.open(path).recipe("pairs/curated")
    assert recipe["search_encoder"] == "another"
    with pytest.raises(StoreError, match=r"no features of an encoder 'clip'.* and of search"):
        curate(path, step, search_encoder="clip")


THINGS = ("dog", "cat", "bus")
ENTITIES = {"type": "CaptionEntities", "vocabulary": list(THINGS), "aliases": {"dog": ["puppy"]}}


def tagged_store(path):
    """Captions of one or two things or none, in the singular, the plural or another word; images of none, one or two."""
    words = (("a puppy", "dog"), ("two cats", "cat"), ("the bus", "bus"), ("a tree", None))
    texts, named = [], []
    for i in range(120):
        first, second = words[i % 4], words[(i // 4) % 4]
        texts.append(f"{first[0]} near {second[0]}, number {i}")
        named.append({first[1], second[1]} - {None})
    rng = np.random.default_rng(7)
    tags, sure, seen = [], [], []
    for _ in range(120):
        true, doubtful = rng.choice(THINGS, int(rng.integers(0, 3)), replace=False), rng.choice(THINGS)
        # in a colour, as detectors with attributes say it
        tags.append([Tag(f"red {thing}", 0.9) for thing in true] + [Tag(str(doubtful), 0.2)])
        sure.append(set(true.tolist()))
        seen.append(sure[-1] | {str(doubtful)})
    return make_store(path, texts=texts, tags=tags, flagged=FLAGGED, heldout=HELDOUT), named, sure, seen


@pytest.mark.parametrize("part_size, weight, min_score", [(4096, 0.5, 0.3), (7, 0.1, 0.3), (50, 3, 0.1)])
def test_agreement_of_tags_is_that_of_dense_float64(tmp_path, part_size, weight, min_score):
    path, named, sure, seen = tagged_store(tmp_path / "store")
    seen = sure if min_score > 0.2 else seen

    def agreement(caption, image):
        both = len(named[caption]) + len(seen[image])
        return weight * (2 * len(named[caption] & seen[image]) / both if both else 1)

    step = {"type": "reassign", "agreement": {"entities": ENTITIES, "weight": weight, "min_score": min_score}}
    report = Curation(path, [step], part_size=part_size, device="cpu").run()
    made, before = table(path, "curated"), table(path, "default")
    train = ~np.isin(made["caption"], HELDOUT)
    found = dict(zip(made["caption"][train].tolist(), made["image"][train].tolist()))
    assert found == dense_reassignment(path, agreement=agreement)
    assert len(found) == round(0.9 * 112) and found != dense_reassignment(path)
    old = dict(zip(before["caption"].tolist(), before["image"].tolist()))
    told = report["steps"][0]
    for name, images in (("agreement_before", old), ("agreement_after", found)):
        assert told[name] == pytest.approx(np.mean([agreement(c, images[c]) for c in found]) / weight)
    assert told["agreement_after"] > told["agreement_before"] + 0.1
    assert "agreement after" in report_table(report)


def test_the_present_image_takes_part(tmp_path):
    texts = [f"a cat, number {i}" for i in range(30)]
    text, image, _ = features(make_store(tmp_path / "plain", captions=30, texts=texts))
    moved = np.flatnonzero((text @ image.T).argmax(1) != np.arange(30))
    assert len(moved) > 3
    # the encoder finds another image for these captions, and only their own show what they name
    tags = [[Tag("cat" if i in moved else "bus", 0.9)] for i in range(30)]
    for agreement, stay in ((None, False), ({"entities": ENTITIES, "weight": 10}, True)):
        path = make_store(tmp_path / str(stay), captions=30, texts=texts, tags=tags)
        Curation(path, [{"type": "reassign", "images": 1, "keep": 1.0, "agreement": agreement}], device="cpu").run()
        made = table(path, "curated")
        shown = [tags[i][0].name for i in made["image"][np.isin(made["caption"], moved)]]
        assert (made["image"][moved] == moved).any() == stay
        assert (set(shown) == {"cat"}) == stay


def test_agreement_knows_its_vocabulary_by_content(tmp_path):
    path, *_ = tagged_store(tmp_path / "store")
    names = tmp_path / "names.txt"
    step = {"type": "reassign", "agreement": {"entities": {"type": "CaptionEntities", "vocabulary": str(names)}}}
    folders = []
    for words in ("dog\ncat\n", "dog\nbus\n", "dog\ncat\n"):
        names.write_text(words)
        Curation(path, [step], device="cpu").run()
        folders.append(Store.open(path).paths("pairs/curated")[0].parent)
    assert folders[0] == folders[2] != folders[1]
    assert str(tmp_path) not in (folders[0] / "recipe.json").read_text()


def test_score_filter_keeps_the_best(store):
    report = Curation(store, [{"type": "clip_score", "keep": 0.5}], device="cpu").run()
    before, made = table(store, "default"), table(store, "curated")
    usable = ~np.isin(before["image"], FLAGGED) & ~np.isin(before["caption"], HELDOUT)
    threshold = np.sort(before["score"][usable])[-56]
    expected = before["caption"][usable & (before["score"] >= threshold)]
    assert made["caption"][~np.isin(made["caption"], HELDOUT)].tolist() == expected.tolist()
    assert report["kept"] == 0.5 and report["after"]["mean_score"] > report["before"]["mean_score"]
    assert report["steps"][0]["lowest_score"] == pytest.approx(threshold)


def test_filter_with_several_images_a_caption(tmp_path):
    path = make_store(tmp_path / "store", captions=20, k=3)
    report = Curation(path, [{"type": "clip_score", "keep": 0.4}], device="cpu").run()
    made = table(path, "curated")
    assert len(made["caption"]) == 24 and (np.diff(made["caption"]) >= 0).all()
    assert report["after"]["pairs"] == 24 and report["after"]["captions"] == len(set(made["caption"].tolist()))


def test_duplicates_are_merged_into_the_first(tmp_path):
    rng = np.random.default_rng(1)
    text = unit(rng.standard_normal((12, 16)))
    for copy, of in ((4, 1), (5, 1), (9, 8)):  # 4 and 5 say what 1 says, 9 what 8 says
        text[copy] = text[of] + 0.005 * rng.standard_normal(16)
    texts = [f"caption {i}" for i in range(12)]
    texts[7] = "Caption 2 !"  # the same words as caption 2, whatever their features
    path = make_store(tmp_path / "store", captions=12, text_features=text, texts=texts)
    report = Curation(path, [{"type": "merge_duplicates", "min_similarity": 0.99}], device="cpu").run()
    made = table(path, "curated")
    found = {c: set(made["image"][made["caption"] == c].tolist()) for c in np.unique(made["caption"]).tolist()}
    assert found == {0: {0}, 1: {1, 4, 5}, 2: {2, 7}, 3: {3}, 6: {6}, 8: {8, 9}, 10: {10}, 11: {11}}
    assert report["steps"][0]["same_words"] == 1 and report["steps"][0]["similar"] == 3
    of_one = made["score"][made["caption"] == 1]
    assert (np.diff(of_one) <= 0).all()  # the best first
    stored, image, _ = features(path)
    np.testing.assert_allclose(
        made["score"], (stored[made["caption"]] * image[made["image"]]).sum(1), atol=1e-3
    )  # with the caption that stays


def test_merging_makes_no_chains(tmp_path):
    # each is near its neighbour, the ends are not near each other
    angles = np.deg2rad([0, 10, 20, 30])
    text = np.stack([np.cos(angles), np.sin(angles)], 1)
    path = make_store(tmp_path / "store", captions=4, dim=2, text_features=text)
    Curation(path, [{"type": "merge_duplicates", "min_similarity": 0.98}], device="cpu").run()
    assert sorted(set(table(path, "curated")["caption"].tolist())) == [0, 2]


def test_a_merged_pair_counts_once(tmp_path):
    path = make_store(tmp_path / "store", captions=4, images=6, texts=["one", "One.", "two", "three"],
                      pairs=[(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5)])  # fmt: skip
    Curation(path, [{"type": "merge_duplicates", "min_similarity": 1.0}], device="cpu").run()
    made = table(path, "curated")
    assert sorted(zip(made["caption"].tolist(), made["image"].tolist())) == [(0, 1), (0, 2), (0, 3), (2, 4), (3, 5)]


def test_steps_follow_each_other(store):
    steps = [{"type": "clip_score", "keep": 0.8}, {"type": "reassign", "images": 5, "keep": 0.5}]
    report = Curation(store, steps, device="cpu").run()
    assert [s["captions"] for s in report["steps"]] == [90, 45] and report["steps"][1]["captions_before"] == 90


# ---- held out, flagged, recall
def test_held_out_and_flagged(store):
    Curation(store, [{"type": "clip_score", "keep": 0.3}, {"type": "reassign"}], device="cpu").run()
    before, made = table(store, "default"), table(store, "curated")
    for t in (before, made):
        t["heldout"] = [tuple(t[c][i] for c in ("caption", "image", "seed", "score"))
                        for i in np.flatnonzero(np.isin(t["caption"], HELDOUT))]  # fmt: skip
    assert made["heldout"] == before["heldout"] and len(made["heldout"]) == 4
    assert not np.isin(made["image"], FLAGGED).any()
    # the images of held-out captions go to no training caption
    assert not np.isin(made["image"][~np.isin(made["caption"], HELDOUT)], HELDOUT).any()
    default, curated = (SynthPairDataset(store, split="heldout", pairs=p) for p in ("default", "curated"))
    assert [s.key for s in default] == [s.key for s in curated]


def test_a_pool_that_both_splits_share_is_searched_whole(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [(c, int(i)) for c in range(60) for i in rng.choice(8, 2, replace=False)]
    path = make_store(tmp_path / "store", captions=60, images=10, pairs=pairs, heldout=(1, 2), flagged=(9,))
    report = Curation(path, [{"type": "reassign", "keep": 1.0}], device="cpu").run()
    assert report["gallery"] == 9  # no caption had images 8 and 9, and 9 is flagged
    assert report["heldout"] == {"captions": 2, "pairs": 4} and report["kept"] == 1.0


def test_recall_is_that_of_dense_float64(store):
    report = Curation(store, [{"type": "clip_score", "keep": 0.5}], part_size=13, device="cpu").run()
    text, image, usable = features(store)
    allowed = np.flatnonzero(usable & ~np.isin(np.arange(120), HELDOUT))
    for figures, captions in (("before", allowed), ("after", table(store, "curated")["caption"])):
        captions = [c for c in captions if c not in HELDOUT]
        # Its own image is not compared with itself: two roundings of one product may differ.
        ranks = [(text[c] @ image[allowed[allowed != c]].T > text[c] @ image[c]).sum() for c in captions]
        expected = {str(k): np.mean([r < k for r in ranks]) for k in (1, 5, 10)}
        assert report[figures]["recall"] == pytest.approx(expected)
    assert report["before_of_kept"]["recall"] == report["after"]["recall"]  # a filter moves nothing
    told = report_table(report)
    assert "50.00 % of the captions kept" in told and "text→image recall@10" in told


def test_without_recall_nothing_is_searched_for_a_filter(store, monkeypatch):
    monkeypatch.setattr("synthcap_mm.synthesis.neighbours.blockwise_topk", None)
    report = Curation(store, [{"type": "clip_score"}], recall=False, device="cpu").run()
    assert "recall" not in report["after"] and "recall" not in report_table(report)


def test_best():
    score = np.array([1.0, 3.0, 2.0, 3.0, 2.0])
    assert best(5, 0.4, score).tolist() == [1, 3]
    assert best(5, 0.6, score).tolist() == [1, 2, 3]  # of equal ones the first
    assert best(5, 0.6, score, np.array([0, 0, 0, 0, 1])).tolist() == [1, 3, 4]
    assert best(5, 0.01, score).tolist() == [1]


# ---- the table in the store
def test_the_dataset_serves_it(store):
    curate(store, REASSIGN)
    dataset = SynthPairDataset(store, pairs="curated")
    made = table(store, "curated")
    sample = dataset[3]
    row = made["image"][made["caption"] == sample.sample_id][0]
    np.testing.assert_allclose(sample.feat.numpy(), Store.open(store).images.feature(int(row)), atol=1e-3)
    assert len(dataset) == len(set(made["caption"].tolist()) - set(HELDOUT))


def test_a_curated_table_stays_while_what_it_was_made_of_is_the_stores(tiny_synthesis, tiny):
    settings, path = {**tiny_synthesis, "keep_images": True}, tiny_synthesis["store"]
    make(settings)
    curate(path, REASSIGN, refine=True)
    curate(path, FILTER, name="again", source="curated")
    whole = Store.open(path).view
    added = {"pairs/curated", "refined/curated", "pairs/again"}
    make(settings)
    assert Store.open(path).view == whole
    for changes, stays in (
        ({"tokenizer": None}, True),
        ({"refine": None}, True),
        ({"tag_provider": {"type": "TinyTagger", "score": 0.5}}, True),  # these steps look at no tags
        ({"captions": {"type": "TinyCaptions", "num": 41}}, False),
        ({"holdout": 0.3}, False),
    ):
        curate(path, REASSIGN, refine=True)
        curate(path, FILTER, name="again", source="curated")
        make(settings, **changes)
        assert (set(Store.open(path).tables) & added) == (added if stays else set())
        if not stays:
            with pytest.raises(StoreError, match="pairs/curated"):
                SynthPairDataset(path, pairs="curated")
        make(settings)
    before = files(path)
    curate(path, REASSIGN, refine=True)
    assert new_files(path, before) == {}  # it lies there, and comes back into the view
    assert {"pairs/curated", "refined/curated"} <= set(Store.open(path).tables)


def test_what_was_made_of_replaced_pairs_goes_with_them(tiny_synthesis):
    path = tiny_synthesis["store"]
    make(tiny_synthesis)
    curate(path, REASSIGN, refine=True)
    curate(path, FILTER, name="again", source="curated")
    opened = Store.open(path)
    curate(path, FILTER)
    assert {*Store.open(path).tables} & {"refined/curated", "pairs/again"} == set()
    with pytest.raises(StoreError, match="refined"):
        SynthPairDataset(path, pairs="curated", refined=True)
    assert len(opened.refined("curated")) == len(opened.pairs("curated"))  # who opened it goes on with what it opened


def test_refined_features_of_the_table(tmp_path):
    settings = {"steps": 3, "lr": 0.01, "bank_size": 16}
    path = make_store(tmp_path / "store", flagged=FLAGGED, heldout=HELDOUT, refine=settings)
    curate(path, REASSIGN, name="plain")
    with pytest.raises(StoreError, match="pairs/plain"):
        SynthPairDataset(path, pairs="plain", refined=True)
    curate(path, REASSIGN, name="fine", refine=True)
    moved, still = (SynthPairDataset(path, pairs="fine", refined=r) for r in (True, False))
    assert len(moved) == len(still) and not torch.equal(moved[0].feat, still[0].feat)
    curate(path, REASSIGN, name="explicit", refine=dict(settings))
    a, b = (Store.open(path).refined(n).features() for n in ("fine", "explicit"))
    np.testing.assert_array_equal(a, b)


def test_refined_features_are_those_of_the_synthesis(tiny_synthesis):
    # nothing held out or left out: the same pairs, and so the same negatives
    make(tiny_synthesis, holdout=0)
    curate(tiny_synthesis["store"], {"type": "clip_score", "keep": 1.0}, refine=True, recall=False)
    store = Store.open(tiny_synthesis["store"])
    np.testing.assert_allclose(store.refined("curated").features(), store.refined().features(), atol=2e-3)
    assert np.abs(store.refined().features() - store.images.features()).max() > 0.01


def test_refine_true_needs_settings(store):
    with pytest.raises(StoreError, match="refine"):
        curate(store, REASSIGN, refine=True)


def test_again_it_is_there_under_any_name(store, monkeypatch):
    report = curate(store, REASSIGN)
    before = files(store)
    monkeypatch.setattr("synthcap_mm.synthesis.neighbours.blockwise_topk", None)
    assert curate(store, REASSIGN) == report and curate(store, REASSIGN, name="other") == report
    assert files(store) == before
    assert Store.open(store).identity("pairs/other") == Store.open(store).identity("pairs/curated")


def test_a_damaged_table_is_made_again(store):
    """Also by the command that makes it, which opens the store to do so."""
    refine = {"steps": 1}
    curate(store, REASSIGN, refine=refine)
    before = files(store)
    for name in ("pairs/curated", "refined/curated"):
        path = Store.open(store).paths(name)[-1]
        path.unlink()
        with pytest.raises(StoreError, match=path.name):
            Store.open(store).table(name)
        SynthPairDataset(store)
        curate(store, REASSIGN, refine=refine)
        assert files(store) == before
        path.write_bytes(path.read_bytes()[:-9])
        curate(store, REASSIGN, refine=refine)
        assert files(store) == before


# ---- interruptions, tasks and workers
STEPS = [{"type": "merge_duplicates"}, {"type": "clip_score", "keep": 0.95},
         {"type": "reassign", "agreement": {"entities": {"type": "CaptionEntities", "vocabulary": ["number", "dog"]}}}]  # fmt: skip


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """Files and report of a curation in one go."""
    path = to_curate(tmp_path_factory.mktemp("curated"))
    report = curate(path, *STEPS, part_size=16, refine=True)
    return files(path), report


def to_curate(folder):
    return make_store(folder / "store", flagged=FLAGGED, heldout=HELDOUT, refine={"steps": 2, "bank_size": 8})


def test_a_run_that_is_stopped_at_every_part_goes_on(tmp_path, curated, monkeypatch):
    path, write, written = to_curate(tmp_path), Table.write, []

    def stops(self, shard, rows, **facts):
        write(self, shard, rows, **facts)
        written.append(self.path(shard))
        raise Stopped

    monkeypatch.setattr(Table, "write", stops)
    for _ in range(100):
        assert not Store.open(path).has("pairs/curated")
        try:
            report = curate(path, *STEPS, part_size=16, refine=True)
            break
        except Stopped:
            continue
    assert len(written) == len({*written}) > 20
    assert (files(path), report) == curated and not hidden(path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_make_no_difference(tmp_path, curated, order):
    path, reports = to_curate(tmp_path), []
    for index in itertools.islice(itertools.cycle(order), 60):
        try:
            worker = Worker(index, 3, own_share_only=True)
            reports.append(Curation(path, STEPS, part_size=16, refine=True, device="cpu").run(worker))
            break
        except NotYet:
            continue
    assert (files(path), *reports) == curated and not hidden(path)


def test_two_workers_make_no_difference(tmp_path, curated, monkeypatch):
    import threading

    from synthcap_mm.synthesis import run

    monkeypatch.setattr(run, "_LOOK", 0.02)
    path, reports = to_curate(tmp_path), []

    def work(index):
        reports.append(Curation(path, STEPS, part_size=16, refine=True, device="cpu").run(Worker(index, 2)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert reports == [curated[1]] * 2 and files(path) == curated[0]


# ---- bad input
@pytest.mark.parametrize(
    "steps, message",
    [
        ([], "Curation.steps"),
        ("reassign", "Curation.steps"),
        ([{"type": "shuffle"}], r"Curation.steps\[0\].type"),
        (["reassign"], r"Curation.steps\[0\]"),
        ([{"type": "reassign", "K": 3}], "'K'"),
        ([{"type": "clip_score"}, {"type": "reassign", "keep": 0}], r"Curation.steps\[1\].keep"),
        ([{"type": "reassign", "agreement": {"weight": 1}}], "entities"),
        ([{"type": "reassign", "agreement": {"entities": {"type": "TextAsPrefix"}}}], "reads no names from a sentence"),
        ([{"type": "reassign", "agreement": {"entities": ENTITIES, "min_score": 2}}], r"agreement.min_score"),
    ],
)
def test_bad_steps(steps, message):
    with pytest.raises(UserError, match=message):
        Curation("nowhere", steps)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "default"}, "choose another name"),
        ({"name": "x", "source": "x"}, "choose another name"),
        ({"name": "../x"}, "Curation.name"),
        ({"search": "annoy"}, "Curation.search"),
        ({"search": {"type": "exact", "lists": 3}}, "lists"),
        ({"refine": {"lr": "0.1"}}, "Curation.refine.lr"),
        ({"refine": {"bank_size": 0}}, "Curation.refine.bank_size"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Curation("nowhere", [{"type": "reassign"}], **settings)
