"""DiffusionBridge: its arithmetic against closed forms and diffusers, what it adds to a batch, and what learns by what."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks import DiffusionBridge
from synthcap_mm.models.necks.diffusion_bridge import STEPS, add_noise, cosine_schedule, ddim_step
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch

DIM = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Captions and images around two different means."""
    rng = np.random.default_rng(1)
    text = unit(rng.standard_normal((40, DIM)) * 0.3 + np.eye(DIM)[0])
    return make_store(tmp_path_factory.mktemp("bridge") / "pairs", 40, dim=DIM, text_features=text)


@pytest.fixture
def neck(store):
    torch.manual_seed(0)
    neck = DiffusionBridge(DIM, hidden_dim=32, blocks=1, store=store)
    neck.load_moments()
    return neck


def centred(feats, store, table):
    mean = unit(getattr(Store.open(store), table).features(np.arange(40))).mean(0)
    return F.normalize(feats - torch.tensor(mean, dtype=torch.float32), dim=1)


def test_noise_in_one_go_is_noise_step_by_step():
    left = cosine_schedule(50)
    assert left[0] == 1 and len(left) == 51
    torch.manual_seed(0)
    x = torch.full((50_000,), 2.0, dtype=torch.float64)
    for now, then in itertools.pairwise(left[:31]):
        x = (then / now).sqrt() * x + (1 - then / now).sqrt() * torch.randn_like(x)
    once = add_noise(torch.full_like(x, 2.0), left[30], torch.randn_like(x))
    for found in (x, once):
        assert found.mean().item() == pytest.approx(2 * left[30].sqrt().item(), abs=0.02)
        assert found.var().item() == pytest.approx(1 - left[30].item(), abs=0.02)


def test_schedule_and_step_are_those_of_diffusers():
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(
        STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False
    )
    left = cosine_schedule()
    torch.testing.assert_close(scheduler.alphas_cumprod, left[1:].float(), atol=1e-6, rtol=1e-4)
    scheduler.set_timesteps(10)
    torch.manual_seed(0)
    noisy, clean = torch.randn(2, 3, DIM)
    # Step 601 of ours, counted from the clean feature, is their step 600.
    wanted = scheduler.step(clean, 600, noisy).prev_sample
    torch.testing.assert_close(ddim_step(noisy, clean, left[601].float(), left[501].float()), wanted)


def test_with_a_perfect_denoiser_the_steps_turn_noise_into_the_gaussian():
    mean, deviation = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 1.0, 2.0]).double()
    left = cosine_schedule()
    torch.manual_seed(0)
    start = torch.randn(5, 3, dtype=torch.float64)
    x = start
    for now in range(600, 0, -1):
        a = left[now]
        share = a.sqrt() * deviation**2 / (a * deviation**2 + 1 - a)
        x = ddim_step(x, mean + share * (x - a.sqrt() * mean), a, left[now - 1])
    a = left[600]
    # The flow of a Gaussian keeps every point at its number of deviations from the mean.
    wanted = mean + deviation * (start - a.sqrt() * mean) / (a * deviation**2 + 1 - a).sqrt()
    torch.testing.assert_close(x, wanted, atol=0.01, rtol=0.01)


def test_entering_at_step_0_takes_off_the_mean_and_nothing_else(store):
    neck = DiffusionBridge(DIM, enter=0, store=store)
    feats = F.normalize(torch.randn(4, DIM), dim=1)
    for source, table in (("real", "images"), ("pseudo", "images"), ("text", "captions")):
        out, losses = neck(PrefixBatch(feats, source), "predict")
        torch.testing.assert_close(out.feats, centred(feats, store, table))
        assert losses == {} and out.source == source


def test_an_image_is_denoised_alike_alone_and_in_a_batch_whatever_the_seed(neck):
    feats = F.normalize(torch.randn(6, DIM), dim=1)
    whole = neck(PrefixBatch(feats, "real"), "predict")[0].feats
    torch.manual_seed(7)
    alone = torch.cat([neck(PrefixBatch(row[None], "real"), "predict")[0].feats for row in feats])
    torch.testing.assert_close(whole, alone)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(6))
    half = neck(PrefixBatch(feats.bfloat16(), "real"), "predict")[0].feats
    assert half.dtype == torch.float32


def test_a_caption_gets_the_noise_that_an_image_is_taken_to_have(neck, monkeypatch):
    feats = F.normalize(torch.randn(3, DIM), dim=1)
    seen = []
    monkeypatch.setattr(neck, "denoised", lambda noisy: seen.append(noisy) or noisy)
    torch.manual_seed(3)
    neck(PrefixBatch(feats, "text"), "predict")
    torch.manual_seed(3)
    noise = torch.randn(3, DIM)
    left = cosine_schedule()[600].item()
    wanted = left**0.5 * 5 * centred(feats, neck.store.path, "captions") + (1 - left) ** 0.5 * noise
    torch.testing.assert_close(seen[0], wanted)
    neck(PrefixBatch(feats, "real"), "predict")
    torch.testing.assert_close(seen[1], 5 * centred(feats, neck.store.path, "images"))


def test_the_two_losses_share_no_gradient(neck):
    feats, text = (F.normalize(torch.randn(4, DIM), dim=1).requires_grad_() for _ in range(2))
    decoder = torch.nn.Linear(DIM, 1)
    for source in ("pseudo", "text"):
        out, losses = neck(PrefixBatch(feats, source, text_feats=text), "train")
        decoder(out.feats).sum().backward()
        assert decoder.weight.grad is not None and feats.grad is None
        assert all(parameter.grad is None for parameter in neck.parameters())
        decoder.zero_grad()
        losses["loss_denoise"].backward()
        assert all(parameter.grad is not None for parameter in neck.parameters())
        assert decoder.weight.grad is None and feats.grad is None and text.grad is None
        neck.zero_grad()


def test_the_loss_is_the_squared_error_weighted_by_signal_to_noise_up_to_5(neck, monkeypatch):
    text = F.normalize(torch.randn(2, DIM), dim=1)
    monkeypatch.setattr(neck, "predict_clean", lambda noisy, step: torch.zeros_like(noisy))
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor([600, 1]))
    left = cosine_schedule()[600].item()
    # An error of length 5, the features' own, whatever they are.
    assert neck.loss(text).item() == pytest.approx((left / (1 - left) + 5.0) / 2 * 25 / DIM, rel=1e-4)


def test_it_learns_to_find_a_caption_from_a_feature_beside_it(tmp_path):
    torch.manual_seed(0)
    text = unit(np.random.default_rng(0).standard_normal((20, DIM)) + 2)
    store = make_store(tmp_path / "few", 20, dim=DIM, text_features=text[[0, 1] * 10])
    neck = DiffusionBridge(DIM, hidden_dim=64, blocks=1, store=store)
    captions = torch.tensor(text[[0, 1] * 8], dtype=torch.float32)
    optimizer = torch.optim.Adam(neck.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        neck.loss(captions).backward()
        optimizer.step()
    wanted = F.normalize(torch.tensor(text[:2] - text[:2].mean(0), dtype=torch.float32), dim=1)
    image = neck.moments[0] + 0.3 * wanted + 0.1 * F.normalize(torch.randn(2, DIM), dim=1)
    found = neck(PrefixBatch(image, "real"), "predict")[0].feats
    assert F.cosine_similarity(found, wanted).min() > 0.95


def test_what_does_not_fit_is_refused(neck, store):
    with pytest.raises(ValueError, match="text_feats"):
        neck(PrefixBatch(torch.randn(2, DIM), "pseudo"), "train")
    with pytest.raises(ValueError, match="another encoder"):
        neck(PrefixBatch(torch.randn(2, 5), "real"), "predict")
    with pytest.raises(UserError, match=r"DiffusionBridge.enter"):
        DiffusionBridge(DIM, enter=STEPS + 1, store=store)
