"""NoiseInjection, TextAsPrefix, TextFeatureMix and PrefixProjector."""

import pytest
import torch
import torch.nn.functional as F

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks import NoiseInjection, PrefixProjector, TextAsPrefix, TextFeatureMix
from synthcap_mm.structures import PrefixBatch


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_noise_has_the_variance_and_follows_the_global_generator():
    torch.manual_seed(0)
    batch = PrefixBatch(unit(4000, 16), "text")
    neck = NoiseInjection(variance=0.016)
    torch.manual_seed(3)
    out, losses = neck(batch, "train")
    torch.manual_seed(3)
    again, _ = neck(batch, "train")
    assert losses == {} and torch.equal(out.feats, again.feats)
    torch.testing.assert_close(out.feats.norm(dim=1), torch.ones(4000))
    # Before normalising, the noise is a sphere's worth of 16 * 0.016: the mean cosine is 1 / sqrt(1 + 0.24).
    torch.manual_seed(3)
    noise = torch.randn(4000, 16) * 0.016**0.5
    torch.testing.assert_close(out.feats, F.normalize(batch.feats + noise, dim=1))
    assert abs(noise.var().item() - 0.016) < 5e-4
    assert neck(batch, "predict")[0] is batch
    assert neck(batch.replace(source="real"), "train")[0].source == "real"


def test_text_takes_the_images_place_in_training_only():
    images, texts = unit(3, 4), unit(3, 4)
    batch = PrefixBatch(images, "pseudo", text_feats=texts)
    out, _ = TextAsPrefix()(batch, "train")
    assert torch.equal(out.feats, texts) and out.source == "text" and batch.source == "pseudo"
    assert TextAsPrefix()(batch, "predict")[0] is batch
    with pytest.raises(ValueError, match="TextAsPrefix"):
        TextAsPrefix()(PrefixBatch(images, "pseudo"), "train")


def test_text_is_mixed_in_for_some_samples_and_follows_the_global_generator():
    torch.manual_seed(0)
    images, texts = unit(2000, 4), unit(2000, 4)
    batch = PrefixBatch(images, "pseudo", text_feats=texts)
    neck = TextFeatureMix(prob=0.3)
    torch.manual_seed(3)
    out, losses = neck(batch, "train")
    torch.manual_seed(3)
    again, _ = neck(batch, "train")
    other, _ = neck(batch, "train")
    assert losses == {} and torch.equal(out.feats, again.feats) and not torch.equal(out.feats, other.feats)
    from_text = (out.feats == texts).all(dim=1)
    assert torch.equal(out.feats[~from_text], images[~from_text])
    assert abs(from_text.float().mean().item() - 0.3) < 0.04
    assert TextFeatureMix(prob=1.0)(batch, "predict")[0] is batch
    with pytest.raises(ValueError, match="TextFeatureMix"):
        neck(batch.replace(text_feats=None), "train")
    # Whole rows, and nothing else of the batch.
    assert out.source == "pseudo" and out.text_feats is texts and torch.equal(batch.feats, images)


def test_projector_is_the_mlp_it_says():
    neck = PrefixProjector(4, width=6, prefix_length=3)
    assert neck.hidden.out_features == 9
    for phase, source in (("train", "pseudo"), ("predict", "real")):
        assert neck(PrefixBatch(unit(2, 4), source), phase)[0].feats.shape == (2, 3, 6)
    with pytest.raises(ValueError):
        neck(PrefixBatch(unit(2, 5), "real"), "predict")
    with pytest.raises(UserError, match="hidden_dim"):
        PrefixProjector(4, width=6, kind="linear", hidden_dim=5)
    with pytest.raises(UserError, match="in_dim and width"):
        PrefixProjector()
    feats = unit(2, 4)
    expected = (feats @ neck.hidden.weight.T + neck.hidden.bias).tanh() @ neck.output.weight.T + neck.output.bias
    torch.testing.assert_close(neck(PrefixBatch(feats, "real"), "predict")[0].feats.flatten(1), expected)
    scaled = PrefixProjector(4, width=6, prefix_length=3, input_scale=2.0)
    scaled.load_state_dict(neck.state_dict())
    doubled = neck(PrefixBatch(2 * feats, "real"), "predict")[0].feats
    torch.testing.assert_close(scaled(PrefixBatch(feats, "real"), "predict")[0].feats, doubled)
    linear = PrefixProjector(4, width=6, prefix_length=2, kind="linear")
    expected = feats @ linear.output.weight.T + linear.output.bias
    torch.testing.assert_close(linear(PrefixBatch(feats, "real"), "predict")[0].feats.flatten(1), expected)
    deep = PrefixProjector(4, width=6, prefix_length=2, hidden_dim=8, hidden_layers=2, activation="relu")
    hidden = (feats @ deep.hidden.weight.T + deep.hidden.bias).clamp_min(0)
    hidden = (hidden @ deep.further[0].weight.T + deep.further[0].bias).clamp_min(0)
    expected = hidden @ deep.output.weight.T + deep.output.bias
    torch.testing.assert_close(deep(PrefixBatch(feats, "real"), "predict")[0].feats.flatten(1), expected)
    with pytest.raises(UserError, match="hidden_layers"):
        PrefixProjector(4, width=6, kind="linear", hidden_layers=2)


def test_phase_not_training_mode_decides_on_dropout():
    neck = PrefixProjector(8, width=6, prefix_length=2, dropout=0.5)
    batch = PrefixBatch(unit(4, 8), "pseudo")
    neck.train()
    assert torch.equal(neck(batch, "predict")[0].feats, neck(batch, "predict")[0].feats)
    neck.eval()
    assert not torch.equal(neck(batch, "train")[0].feats, neck(batch, "train")[0].feats)


def test_projector_in_half_precision_takes_float32_features():
    neck = PrefixProjector(4, width=6, prefix_length=2).bfloat16()
    assert neck(PrefixBatch(unit(2, 4), "real"), "predict")[0].feats.dtype == torch.bfloat16
