"""Pairs as training gets them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from random_store import make_store
from torch.utils.data import DataLoader

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.errors import UserError
from synthcap_mm.store import Store, StoreError
from synthcap_mm.structures import group_id
from synthcap_mm.synthesis.synthesis import Synthesis


@pytest.fixture(scope="module")
def many(tmp_path_factory, tiny):
    """Three images a caption; some of them blank, one caption with none that is usable."""
    from synthcap_mm.registry import MODELS

    @MODELS.register_module(force=True)
    class SometimesBlank(tiny.TinyPainter):
        """Caption 4 fails always; caption 5's first image too."""

        def generate(self, captions, seeds):
            from synthcap_mm.synthesis.synthesis import seed_of

            blank = {seed_of(0, "c4", j) for j in range(3)} | {seed_of(0, "c5", 0)}
            images = super().generate(["blank" if s in blank else c for c, s in zip(captions, seeds)], seeds)
            return images

    path = tmp_path_factory.mktemp("many") / "store"
    Synthesis(
        store=str(path),
        captions={"type": "TinyCaptions", "num": 12},
        encoder={"type": "TinyEncoder"},
        generator={"type": "SometimesBlank"},
        images_per_caption=3,
        refine={"steps": 2, "lr": 0.01, "bank_size": 8},
        tokenizer=None,
        holdout=0.0,
        shard_size=5,
    ).run()
    return str(path)


def spoil_feature(store, table, value):
    """Puts a value into a stored feature, as a broken tool would; the feature's row."""
    opened = Store.open(store)
    path, features = opened.paths(table)[0], opened.table(table).features()
    data = path.read_bytes()
    # of a caption whose words are its own
    row = next(r for r in opened.caption_rows()[1:] if data.count(features[r].tobytes()) == 1)
    spoilt = features[row].copy()
    spoilt[3] = value
    path.write_bytes(data.replace(features[row].tobytes(), spoilt.tobytes()))
    return int(row)


# ---- what an item is
def test_a_training_sample_is_a_caption_with_its_image(tiny_stores, tiny):
    dataset = SynthPairDataset(tiny_stores[0])
    store, captions = Store.open(tiny_stores[0]), tiny.sentences(40)
    rows = store.caption_rows("train")
    assert len(dataset) == len(rows) == 30
    for index in (0, 17, 29):
        row, sample = int(rows[index]), dataset[index]
        assert (sample.sample_id, sample.memory_row, sample.key) == (row, row, captions[row].id)
        assert sample.caption == captions[row].text and sample.references is None
        assert sample.group == group_id(captions[row].group)
        assert sample.source == "pseudo" and sample.tags == store.tags(row)
        for feature, stored in ((sample.feat, store.images), (sample.text_feat, store.captions)):
            assert feature.dtype == torch.float32
            np.testing.assert_allclose(feature.norm(), 1, atol=1e-6)
            np.testing.assert_allclose(feature.numpy(), stored.feature(row).astype(np.float32), atol=1e-3)


def test_refined_features_are_those_beside_the_pairs(tiny_stores):
    plain, refined = SynthPairDataset(tiny_stores[0]), SynthPairDataset(tiny_stores[0], refined=True)
    store = Store.open(tiny_stores[0])
    row = refined[5].sample_id
    np.testing.assert_allclose(refined[5].feat.numpy(), store.refined().feature(row).astype(np.float32), atol=1e-3)
    assert not torch.equal(plain[5].feat, refined[5].feat)
    assert torch.equal(plain[5].text_feat, refined[5].text_feat)


def test_held_out_captions_are_validated_by_their_images_and_all_captions_of_their_group(tiny_stores):
    store = Store.open(tiny_stores[0])
    dataset = SynthPairDataset(tiny_stores[0], split="heldout", refined=True)
    groups, texts = store.captions.strings("group"), store.captions.strings("text")
    rows = store.caption_rows("heldout")
    assert len(dataset) == len(rows) == 10
    for sample, row in zip([dataset[i] for i in range(10)], rows):
        assert sample.caption is None and sample.memory_row == -1
        assert (
            sample.references == [t for t, g in zip(texts, groups) if g == groups[row]] and len(sample.references) == 2
        )
        # not the refined ones: real photos are not optimised either
        np.testing.assert_allclose(sample.feat.numpy(), store.images.feature(row).astype(np.float32), atol=1e-3)
    train = SynthPairDataset(tiny_stores[0])
    assert not {train[i].group for i in range(30)} & {dataset[i].group for i in range(10)}
    assert not {train[i].memory_row for i in range(30)} & set(rows)


def test_a_store_of_captions_only_serves_text(tiny_synthesis):
    Synthesis(**{**tiny_synthesis, "generator": None}).run()
    dataset = SynthPairDataset(tiny_synthesis["store"], pairs=None)
    sample = dataset[3]
    assert sample.source == "text" and sample.tags == []
    assert torch.equal(sample.feat, sample.text_feat)
    for option, value in (("refined", True), ("image_choice", "random"), ("image_choice", "best")):
        with pytest.raises(UserError, match=option):
            SynthPairDataset(tiny_synthesis["store"], pairs=None, **{option: value})
    heldout = SynthPairDataset(tiny_synthesis["store"], pairs=None, split="heldout")
    assert heldout[0].source == "text" and len(heldout[0].references) == 2
    with pytest.raises(StoreError, match="no table 'pairs/default'"):
        SynthPairDataset(tiny_synthesis["store"])


def test_a_caption_without_a_group_is_its_own(tmp_path, tiny):
    captions = {"type": "ListedCaptions", "captions": [(c.id, c.text, None) for c in tiny.sentences(12)]}
    Synthesis(str(tmp_path / "s"), captions, {"type": "TinyEncoder"}, holdout=0.2).run()
    heldout = SynthPairDataset(str(tmp_path / "s"), pairs=None, split="heldout")
    assert all(len(heldout[i].references) == 1 for i in range(len(heldout)))
    assert heldout[0].group == group_id(heldout[0].key)


def test_held_out_groups_without_words_are_told_to_the_metrics(tmp_path, tiny):
    texts = {"half": [".", "a dog"], "none": [".", "..."], **{c.id: [c.text] for c in tiny.sentences(4)}}
    captions = [(f"{group}{n}", text, group) for group, of_group in texts.items() for n, text in enumerate(of_group)]
    source = {"type": "ListedCaptions", "captions": captions}
    Synthesis(str(tmp_path / "s"), source, {"type": "TinyEncoder"}, holdout=0.99).run()
    heldout = SynthPairDataset(str(tmp_path / "s"), pairs=None, split="heldout")
    assert {"half0", "half1"} < set(heldout.metainfo["keys"])
    assert heldout.metainfo["wordless"] == ["none0", "none1"]


def test_held_out_scores_are_said_to_be_no_estimate_for_photos(tmp_path, monkeypatch):
    from synthcap_mm.datasets import synth_pair_dataset

    said = []
    monkeypatch.setattr(synth_pair_dataset, "print_log", lambda message, **kwargs: said.append(message))
    store = make_store(tmp_path / "s", 40, heldout=range(2))
    SynthPairDataset(store)
    assert said == []
    assert SynthPairDataset(store, split="heldout").metainfo["keys"] == ["c0", "c1"]
    SynthPairDataset(store, split="heldout", pairs=None)
    assert "2 captions of 2 groups" in said[0] and "no estimate for photos" in said[0]
    assert ["same source" in line for line in said] == [True, False]


# ---- several images
def test_the_first_usable_image(many):
    dataset = SynthPairDataset(many)
    store = Store.open(many)
    assert dataset.metainfo["left_out"] == 1 and len(dataset) == 11
    by_key = {dataset[i].key: dataset[i] for i in range(11)}
    assert "c4" not in by_key
    np.testing.assert_allclose(by_key["c3"].feat, store.images.feature(9).astype(np.float32), atol=1e-3)
    # the first of c5 is blank
    np.testing.assert_allclose(by_key["c5"].feat, store.images.feature(16).astype(np.float32), atol=1e-3)


def test_the_best_image_is_the_one_most_like_its_caption(many):
    dataset, store = SynthPairDataset(many, image_choice="best"), Store.open(many)
    flagged = store.images.is_set("flags")
    picked = []
    for i in range(len(dataset)):
        row = dataset[i].sample_id
        images = [j for j in range(3 * row, 3 * row + 3) if not flagged[j]]
        best = max(images, key=lambda j: store.pairs().value("score", j))
        np.testing.assert_allclose(dataset[i].feat, store.images.feature(best).astype(np.float32), atol=1e-3)
        picked.append(best - 3 * row)
    assert len(set(picked)) > 1


def test_a_random_image_is_a_function_of_seed_epoch_and_sample(many):
    def epoch(dataset, number):
        dataset.set_epoch(number)
        return torch.stack([dataset[i].feat for i in range(len(dataset))])

    dataset, same = (SynthPairDataset(many, image_choice="random", seed=3) for _ in range(2))
    first = epoch(dataset, 0)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(first, epoch(same, 0))
    assert not torch.equal(first, epoch(dataset, 1))
    assert torch.equal(first, epoch(dataset, 0))
    assert not torch.equal(first, epoch(SynthPairDataset(many, image_choice="random", seed=4), 0))
    # refined features are of the image that was chosen
    refined = SynthPairDataset(many, image_choice="random", seed=3, refined=True)
    store = Store.open(many)
    for i in range(len(refined)):
        pair = refined._pair(i)
        np.testing.assert_allclose(refined[i].feat, store.refined().feature(pair).astype(np.float32), atol=1e-3)
        np.testing.assert_allclose(first[i], store.images.feature(pair).astype(np.float32), atol=1e-3)


def test_all_images_of_a_caption_come_up_and_no_flagged_one(many):
    dataset, store = SynthPairDataset(many, image_choice="random"), Store.open(many)
    flagged, seen = store.images.is_set("flags"), set()
    for number in range(40):
        dataset.set_epoch(number)
        seen |= {dataset._pair(i) for i in range(len(dataset))}
    assert seen == set(np.flatnonzero(~flagged))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_serve_the_same_and_see_the_epoch(many, start):
    alone = SynthPairDataset(many, image_choice="random")
    dataset = SynthPairDataset(many, image_choice="random")
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=start,
        collate_fn=list,
    )
    epochs = []
    for number in (0, 1):
        dataset.set_epoch(number)
        alone.set_epoch(number)
        served = [sample for batch in loader for sample in batch]
        assert [s.key for s in served] == [alone[i].key for i in range(len(alone))]
        assert all(torch.equal(s.feat, alone[i].feat) for i, s in enumerate(served))
        epochs.append(torch.stack([s.feat for s in served]))
    assert not torch.equal(*epochs)


@pytest.mark.slow
def test_large_batches_need_few_open_files(tmp_path):
    store = make_store(tmp_path / "store", 2000)
    program = f"""
import resource
from torch.utils.data import DataLoader
from synthcap_mm.datasets.synth_pair_dataset import SynthPairDataset
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
dataset = SynthPairDataset({store!r})
loader = DataLoader(dataset, batch_size=128, num_workers=4, collate_fn=list, multiprocessing_context="fork")
batches = [batch for batch in loader]
print(sum(map(len, batches)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "2000", done.stderr


# ---- refusals
@pytest.mark.parametrize("options", [{"image_choice": "last"}, {"split": "val"}, {"pairs": "curated"}])
def test_unknown_options_are_named(tiny_stores, options):
    with pytest.raises((ValueError, UserError), match=next(iter(options))):
        SynthPairDataset(tiny_stores[0], **options)


def test_nothing_to_serve_is_refused(many, tiny_stores, tmp_path):
    with pytest.raises(UserError, match=r"synthesis.holdout"):
        SynthPairDataset(many, split="heldout")
    for pairs in ("default", None):
        for store in (tiny_stores[1], str(tmp_path / "none")):  # of photos; none at all
            with pytest.raises(StoreError, match=store):
                SynthPairDataset(store, pairs=pairs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("table", ["image_features", "text_features", "refined/default"])
def test_a_feature_that_is_not_finite_names_row_and_store(tiny_stores, tmp_path, table, value):
    store = shutil.copytree(tiny_stores[0], tmp_path / "store")
    broken = spoil_feature(store, table, value)
    dataset = SynthPairDataset(str(store), refined=table.startswith("refined"))
    index = next(i for i, row in enumerate(dataset._rows) if row == broken)
    with pytest.raises(ValueError, match=rf"{broken} of {store}"):
        dataset[index]
    dataset[index + 1]  # the others are there


@pytest.mark.parametrize("pairs", ["default", None])
def test_samples_have_the_features_of_all_encoders(two_encoders, pairs):
    dataset, store = SynthPairDataset(two_encoders[0], pairs=pairs), Store.open(two_encoders[0])
    sample = dataset[5]
    text, image = (
        table.feature(sample.sample_id).astype(np.float32)
        for table in (store.text_features("search"), store.image_features("search"))
    )
    np.testing.assert_allclose(sample.other_text_feats["search"], text / np.linalg.norm(text), rtol=1e-6)
    found = text if pairs is None else image
    np.testing.assert_allclose(sample.other_feats["search"], found / np.linalg.norm(found), rtol=1e-6)
    assert dataset.identity != SynthPairDataset(two_encoders[0], pairs=None if pairs else "default").identity
