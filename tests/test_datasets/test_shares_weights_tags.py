"""What SynthPairDataset and CaptionEvalDataset can be asked for beside pairs: a share, weights, other tags."""

import numpy as np
import pytest
from random_store import make_store

from synthcap_mm.datasets import CaptionEvalDataset, SynthPairDataset
from synthcap_mm.errors import UserError
from synthcap_mm.store import Store, StoreError

CLIP_TAGS = {"type": "CLIPTagProvider", "encoder": {"type": "TinyEncoder"}, "vocabulary": ["dog", "cat", "house"],
             "min_score": 0.0}  # fmt: skip
ENTITIES = {"type": "CaptionEntities", "vocabulary": ["dog", "cat", "house"]}


def groups(dataset):
    return {dataset._group(int(row)) for row in dataset._rows}


def test_a_share_has_whole_groups_by_seed_and_smaller_ones_lie_within_larger(tiny_stores):
    pairs, _ = tiny_stores
    full = SynthPairDataset(pairs)
    by_group = {g: sum(full._group(int(r)) == g for r in full._rows) for g in groups(full)}
    found = {share: SynthPairDataset(pairs, fraction=share) for share in (0.1, 0.2, 0.5, 1.0)}
    for share, dataset in found.items():
        own = groups(dataset)
        assert len(own) == max(1, round(share * len(by_group)))
        assert len(dataset) == sum(by_group[g] for g in own)  # whole groups
    assert groups(found[0.1]) < groups(found[0.2]) < groups(found[0.5]) < groups(found[1.0])
    assert groups(SynthPairDataset(pairs, fraction=0.5)) == groups(found[0.5])
    assert groups(SynthPairDataset(pairs, fraction=0.5, seed=1)) != groups(found[0.5])
    without = SynthPairDataset(pairs, pairs=None, fraction=0.5)
    assert groups(without) == groups(found[0.5])
    assert len(SynthPairDataset(pairs, split="heldout", fraction=0.1)) == len(SynthPairDataset(pairs, split="heldout"))
    for bad in (0, 1.1, -0.5):
        with pytest.raises(UserError, match="fraction"):
            SynthPairDataset(pairs, fraction=bad)


def test_samples_weigh_by_their_clamped_score(tiny_stores):
    pairs, _ = tiny_stores
    dataset = SynthPairDataset(pairs, weight_by="score", weight_range=(0.0, 0.1), refined=True)
    store = Store.open(pairs)
    weights = []
    for i in range(len(dataset)):
        sample = dataset[i]
        image = store.pairs().numbers("image")[np.flatnonzero(store.pairs().numbers("caption") == sample.memory_row)[0]]
        cosine = store.images.feature(int(image)).astype(np.float64) @ store.captions.feature(sample.memory_row)
        assert sample.weight == pytest.approx(min(max(cosine, 0.0), 0.1), abs=2e-3)
        weights.append(sample.weight)
    assert min(weights) == 0.0 and max(weights) == pytest.approx(0.1)
    assert SynthPairDataset(pairs)[0].weight == 1.0
    assert SynthPairDataset(pairs, split="heldout", weight_by="score")[0].weight == 1.0
    with pytest.raises(UserError, match="weight_by"):
        SynthPairDataset(pairs, pairs=None, weight_by="score")
    with pytest.raises(UserError, match="weight_by"):
        SynthPairDataset(pairs, weight_by="cosine")
    for bad in ((1.0, 0.5), (0.0, 0.0)):
        with pytest.raises(UserError, match="weight_range"):
            SynthPairDataset(pairs, weight_range=bad)


@pytest.mark.parametrize("table", ["default", None])
def test_training_tags_can_be_what_the_caption_names(tiny_stores, table):
    dataset = SynthPairDataset(tiny_stores[0], pairs=table, tags=ENTITIES)
    named = 0
    for i in range(len(dataset)):
        sample = dataset[i]
        assert [t.name for t in sample.tags] == [w for w in ("dog", "cat", "house") if w in sample.caption.split()]
        named += len(sample.tags)
    assert named > 5


def test_tags_of_pictures_by_their_features(tiny_stores, tiny):
    pairs, photos = tiny_stores
    encoder = tiny.TinyEncoder()
    names = encoder.encode_text(["a photo of a dog.", "a photo of a cat.", "a photo of a house."])
    for dataset in (
        SynthPairDataset(pairs, split="heldout", tags=CLIP_TAGS),
        CaptionEvalDataset(photos, tags=CLIP_TAGS),
    ):
        for i in range(len(dataset)):
            sample = dataset[i]
            order = [("dog", "cat", "house")[j] for j in (names @ sample.feat).argsort(descending=True).tolist()]
            assert [t.name for t in sample.tags] == order and sum(t.score for t in sample.tags) == pytest.approx(1.0)
    retrieved = {"type": "RetrievedEntities", "store": pairs, "vocabulary": ENTITIES["vocabulary"], "k": 3}
    dataset = CaptionEvalDataset(photos, tags=retrieved)
    assert {t.score for i in range(len(dataset)) for t in dataset[i].tags} <= {1 / 3, 2 / 3, 1.0}


def test_of_several_images_only_those_that_held_out_captions_may_have_are_looked_at(tmp_path, monkeypatch):
    from synthcap_mm.models.tag_providers import RetrievedEntities

    words = [f"a dog and a cat {i}" if i % 2 else f"a house {i}" for i in range(30)]
    store = make_store(tmp_path / "s", 30, k=3, dim=8, heldout=(4, 9), texts=words)
    seen = []
    detect = RetrievedEntities.detect_features
    monkeypatch.setattr(
        RetrievedEntities, "detect_features", lambda self, feats: (seen.append(len(feats)), detect(self, feats))[1]
    )
    tags = {"type": "RetrievedEntities", "store": store, "vocabulary": ["dog", "cat", "house"], "k": 1}
    dataset = SynthPairDataset(store, split="heldout", image_choice="random", tags=tags)
    assert seen == [6] and set(dataset._tags) == {12, 13, 14, 27, 28, 29}
    for epoch in range(4):
        dataset.set_epoch(epoch)
        assert all({t.name for t in dataset[i].tags} in ({"house"}, {"dog", "cat"}) for i in range(2))


def test_tags_that_cannot_be_made_are_refused(tiny_stores):
    pairs, photos = tiny_stores
    with pytest.raises(UserError, match="CaptionEntities"):
        SynthPairDataset(pairs, tags=CLIP_TAGS)
    with pytest.raises(UserError, match="detect_features"):
        SynthPairDataset(pairs, split="heldout", tags=ENTITIES)
    with pytest.raises(UserError, match="pairs=None"):
        SynthPairDataset(pairs, split="heldout", pairs=None, tags=CLIP_TAGS)
    with pytest.raises(UserError, match="store="):
        CaptionEvalDataset(photos={"type": "TinyPhotos"}, tags=CLIP_TAGS)
    other = {**CLIP_TAGS, "encoder": {"type": "TinyEncoder", "seed": 1, "name": "other"}}
    with pytest.raises(StoreError, match="CLIPTagProvider"):
        CaptionEvalDataset(photos, tags=other)


def test_captions_that_another_encoder_retrieves_name_the_things(two_encoders):
    pairs, photos = two_encoders
    tags = {"type": "RetrievedEntities", "store": pairs, "vocabulary": ["dog", "cat", "car", "boat", "tree"], "k": 1}
    found = [CaptionEvalDataset(photos, tags={**tags, "search_encoder": name}) for name in ("search", None)]
    store, images = Store.open(pairs), Store.open(photos)
    rows = store.caption_rows()
    for dataset, name in zip(found, ("search", None)):
        similar = images.image_features(name).features().astype(float) @ store.caption_features(rows, name).T
        nearest = [store.captions.value("text", int(rows[row])) for row in similar.argmax(1)]
        assert [[t.name for t in dataset[i].tags] for i in range(12)] == [[text.split()[2]] for text in nearest]
    assert [found[0][i].tags for i in range(12)] != [found[1][i].tags for i in range(12)]
    with pytest.raises(StoreError, match="no features of an encoder 'clip'"):
        CaptionEvalDataset(photos, tags={**tags, "search_encoder": "clip"})
