"""The same config on GPUs and CPUs."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from synthcap_mm.engine import AutocastOptimWrapper


def wrapper(model, **options):
    optimizer = {"type": "SGD", "lr": 0.1}
    return build_optim_wrapper(model, {"type": "AutocastOptimWrapper", "optimizer": optimizer, **options})


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
    with pytest.raises(ValueError, match=rf"'{dtype}'.*AmpOptimWrapper"):
        wrapper(nn.Linear(2, 2), dtype=dtype)
