"""What travels between the parts."""

import pickle

import pytest
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.structures import CaptionSample, PrefixBatch, Tag, group_id


def test_group_ids_are_fixed_for_good():
    assert group_id("Straße 1") == 274432749669495366  # not Python's hash, which differs from run to run


def test_group_ids_fit_a_long_tensor_and_are_never_negative():
    ids = [group_id(str(i)) for i in range(10_000)]
    assert min(ids) >= 0 and max(ids) < 2**63 and len(set(ids)) == 10_000
    assert torch.tensor(ids).tolist() == ids


def test_misspelt_fields_are_errors():
    sample = CaptionSample(0, "a")
    with pytest.raises(AttributeError):
        sample.captions = "a dog"


def test_samples_travel_between_processes():
    sample = CaptionSample(3, "k", feat=torch.ones(2), tags=[Tag("dog", 0.5, (0.0, 1.0, 2.0, 3.0), 0.25)])
    sample.other_feats["search"] = torch.arange(3.0)
    again = pickle.loads(pickle.dumps(sample))
    assert again.tags == sample.tags and torch.equal(again.feat, sample.feat)
    assert torch.equal(again.other_feats["search"], torch.arange(3.0))


def test_features_by_the_name_of_their_encoder():
    feats, other = torch.zeros(2, 3), torch.ones(2, 5)
    batch = PrefixBatch(feats, "real", other_feats={"search": other})
    assert batch.feats_of(None) is feats and batch.feats_of("search") is other and batch.text_feats_of(None) is None
    for ask in (batch.feats_of, batch.text_feats_of):
        with pytest.raises(UserError, match="needs features of the encoder 'clip'"):
            ask("clip")


def test_replace_leaves_the_original_alone():
    batch = PrefixBatch(torch.zeros(2, 3), "text", weights=torch.ones(2))
    other = batch.replace(feats=torch.ones(2, 3))
    assert batch.feats.sum() == 0 and other.feats.sum() == 6
    assert other.source == "text" and other.weights is batch.weights
    with pytest.raises(TypeError):
        batch.replace(features=1)
