"""The same config on GPUs and CPUs."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from synthcap_mm.engine import AutocastOptimWrapper, autocast_optim_wrapper
from synthcap_mm.errors import UserError

HAS_BFLOAT16 = autocast_optim_wrapper.cpu_has_bfloat16


def wrapper(model, **options):
    optimizer = {"type": "SGD", "lr": 0.1}
    return build_optim_wrapper(model, {"type": "AutocastOptimWrapper", "optimizer": optimizer, **options})


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch):
    """As on a processor that computes in bfloat16."""
    monkeypatch.setattr(autocast_optim_wrapper, "cpu_has_bfloat16", lambda: True)


@pytest.mark.parametrize(
    "capabilities, has",
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch, capabilities, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    asked = HAS_BFLOAT16.__wrapped__
    assert asked() is has
    monkeypatch.setattr(autocast_optim_wrapper, "cpu_has_bfloat16", asked)
    model = nn.Linear(4, 2)
    with wrapper(model).optim_context(model):
        assert model(torch.ones(3, 4)).dtype == (torch.bfloat16 if has else torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_forward_runs_in_the_precision_and_the_weights_stay_float32(dtype):
    model = nn.Linear(4, 2)
    optimizer = wrapper(model, dtype=dtype)
    assert isinstance(optimizer, AutocastOptimWrapper)
    before = model.weight.detach().clone()
    with optimizer.optim_context(model):
        out = model(torch.ones(3, 4))
        assert out.dtype == getattr(torch, dtype)
        loss = out.float().pow(2).sum()
    assert not torch.is_autocast_enabled("cpu")
    optimizer.update_params(loss)
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)


def test_bfloat16_is_the_default_and_near_float32():
    losses = {}
    for dtype in ("bfloat16", "float32"):
        torch.manual_seed(0)
        model = nn.Linear(16, 4)
        optimizer = wrapper(model, **({} if dtype == "bfloat16" else {"dtype": dtype}))
        for _ in range(5):
            with optimizer.optim_context(model):
                loss = (model(torch.ones(2, 16)) - 1).float().pow(2).mean()
            optimizer.update_params(loss)
        losses[dtype] = loss.item()
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_gradients_can_be_accumulated_and_clipped():
    """What MMEngine's OptimWrapper does is kept."""
    model = nn.Linear(4, 2)
    optimizer = wrapper(model, accumulative_counts=2, clip_grad={"max_norm": 1e-3})
    optimizer.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    for step in range(2):
        with optimizer.optim_context(model):
            loss = 100 * model(torch.ones(3, 4)).float().pow(2).sum()
        optimizer.update_params(loss)
        assert torch.equal(model.weight, before) == (step == 0)
    assert (model.weight - before).norm() < 2e-4


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(UserError, match="dtype"):
        wrapper(nn.Linear(2, 2), dtype=dtype)


class Shard:
    """What the wrapper asks of a sharded model, its norm being of all shards."""

    def __init__(self, norm):
        self.norm, self.asked = norm, []

    def clip_grad_norm_(self, max_norm, norm_type=2.0):
        self.asked.append((max_norm, norm_type))
        return torch.tensor(self.norm)


def test_a_sharded_model_is_clipped_by_all_shards_whatever_else_is_asked_for():
    def clip(norm=3.0, **options):
        model = nn.Linear(2, 2)
        optimizer = wrapper(model, clip_grad=options)
        model(torch.ones(1, 2)).sum().backward()
        optimizer._sharded = Shard(norm)
        optimizer._clip_grad()
        return optimizer._sharded.asked, model.weight.grad

    for more in ({}, {"foreach": True}, {"error_if_nonfinite": True}):
        assert clip(max_norm=0.5, norm_type=1.0, **more)[0] == [(0.5, 1.0)]
    with pytest.raises(RuntimeError, match="nan"):
        clip(float("nan"), max_norm=0.5, error_if_nonfinite=True)
    assert clip(float("nan"), max_norm=0.5)[0] == [(0.5, 2.0)]
    with pytest.raises(ValueError, match="pnorm"):
        clip(max_norm=0.5, pnorm=2)
    asked, gradient = clip(type="value", clip_value=0.25)
    assert asked == [] and gradient.abs().max() == 0.25
