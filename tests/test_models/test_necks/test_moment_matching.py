"""MomentMatching against a plain float64 reference, gradients included."""

import types
import unittest.mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks import MomentMatching
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch

DIM = 8


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Pairs, and another store whose images stand for unpaired photos; image 3 is flagged, captions 0 to 9 held out."""
    root = tmp_path_factory.mktemp("moments")
    rng = np.random.default_rng(1)
    spread = np.linspace(0.05, 0.4, DIM)
    text = unit(rng.standard_normal((60, DIM)) * spread + 0.3)
    pairs = make_store(root / "pairs", 60, dim=DIM, flagged=(13,), heldout=range(10), text_features=text)
    return pairs, make_store(root / "photos", 40, dim=DIM, seed=5, flagged=(2, 3))


def rows_of(name, pairs, photos):
    store = Store.open(pairs if name in ("captions", "images") else photos)
    if name == "captions":
        return store.captions.features(np.arange(10, 60)).astype(np.float64)
    if name == "images":
        return store.images.features(np.array([i for i in range(10, 60) if i != 13])).astype(np.float64)
    return store.images.features(np.array([i for i in range(40) if i not in (2, 3)])).astype(np.float64)


def reference(feats, start, target, spread):
    start, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (start, target))
    moved = feats - start.mean(0)
    if spread:
        moved = moved * target.std(0) / start.std(0)
    moved = moved + target.mean(0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("start, target", [("captions", "images"), ("captions", "photos"), ("images", "captions"),
                                           ("images", "photos"), ("photos", "captions")])  # fmt: skip
def test_moments_are_those_of_the_rows_that_count(stores, start, target, spread):
    pairs, photos = stores
    paths = {"photos": photos}
    neck = MomentMatching(paths.get(start, start), paths.get(target, target), spread=spread, store=pairs)
    feats = torch.from_numpy(unit(np.random.default_rng(0).standard_normal((7, DIM))))
    wanted = reference(feats.numpy(), rows_of(start, *stores), rows_of(target, *stores), spread)
    out, losses = neck(PrefixBatch(feats, "text"), "train")
    assert losses == {} and np.abs(out.feats.numpy() - wanted).max() < 1e-6
    out, _ = neck(PrefixBatch(feats.float(), "text"), "train")
    assert out.feats.dtype == torch.float32 and np.abs(out.feats.numpy() - wanted).max() < 1e-5


def test_images_are_those_of_the_pairs_that_are_trained_on(tmp_path):
    path = make_store(tmp_path / "pairs", 20, dim=DIM)
    store = Store.open(path)
    few = types.SimpleNamespace(numbers=lambda name: np.arange(5) + (7 if name == "image" else 0))
    whole, curated = (MomentMatching("images", "captions", store=path, pairs=name) for name in ("default", "curated"))
    real = Store.pairs
    with unittest.mock.patch.object(
        Store, "pairs", lambda self, name="default": few if name == "curated" else real(self)
    ):
        for neck, rows in ((whole, range(20)), (curated, range(7, 12))):
            neck.load_moments()
            mean = unit(store.images.features(np.array(rows))).mean(0)
            assert np.abs(neck.moments[0].numpy() - mean).max() < 1e-6


@pytest.mark.parametrize("spread", [False, True])
def test_gradient(stores, spread):
    neck = MomentMatching(spread=spread, store=stores[0])
    neck.load_moments()
    neck.moments = neck.moments.double()
    feats = torch.from_numpy(unit(np.random.default_rng(2).standard_normal((3, DIM)))).requires_grad_()
    assert torch.autograd.gradcheck(neck.match, feats)


def test_it_acts_in_training_on_text_only_by_default_and_takes_the_captioners_store(stores):
    neck = MomentMatching()
    batch = PrefixBatch(F.normalize(torch.randn(2, DIM), dim=1), "real")
    assert neck(batch, "predict")[0] is batch and neck.store is None
    with pytest.raises(UserError, match="MomentMatching"):
        neck(batch.replace(source="text"), "train")
    neck.bind_store(Store.open(stores[0]))
    assert neck(batch.replace(source="text"), "train")[0].feats.shape == (2, DIM)


def test_a_checkpoint_needs_no_store(stores):
    neck = MomentMatching(store=stores[0])
    neck.load_moments()
    other = MomentMatching()
    other.load_state_dict(neck.state_dict())
    feats = F.normalize(torch.randn(2, DIM), dim=1)
    assert torch.equal(neck.match(feats), other.match(feats))


def test_what_does_not_fit_is_refused(stores, tmp_path):
    with pytest.raises(UserError, match=r"start.*target"):
        MomentMatching("images", "images")
    neck = MomentMatching(store=stores[0])
    for feats in (torch.randn(2, 5), torch.full((2, DIM), torch.nan)):
        with pytest.raises(ValueError):
            neck.match(feats)
    flat = np.column_stack([np.zeros(20), unit(np.random.default_rng(0).standard_normal((20, 3)))])
    store = make_store(tmp_path / "flat", 20, dim=4, text_features=flat)
    with pytest.raises(UserError, match="captions"):
        MomentMatching(store=store).load_moments()
    MomentMatching(store=store, spread=False).load_moments()
    with pytest.raises(UserError, match="encoder"):
        MomentMatching("captions", stores[1], store=store).load_moments()
