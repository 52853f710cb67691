"""Schedules end with their training, also where one is resumed with another length; another rate is not ignored unsaid."""

import pytest
import torch
from mmengine.optim import ConstantLR, CosineAnnealingLR, LinearLR, MultiStepLR
from small_runner import make_runner

from synthcap_mm.engine import schedules
from synthcap_mm.engine.schedules import misfit


@pytest.fixture()
def said(monkeypatch):
    """What is logged of schedules."""
    lines = []
    monkeypatch.setattr(schedules, "print_log", lambda text, *_, **__: lines.append(text))
    return lines


@pytest.fixture()
def train(tiny_model, tiny_stores, tmp_path, said):
    """Trains in the test's folder; gives the learning rate of each step."""

    def train(epochs, folder="work", **changes):
        runner, diary = make_runner(tiny_model, tiny_stores, tmp_path / folder, epochs=epochs, **changes)
        runner.train()
        return diary.rates

    return train


@pytest.mark.slow
def test_a_longer_training_goes_on_where_its_own_schedule_is(train, said):
    short, whole = train(2), train(4, "whole")
    assert said == [] and len(whole) == 2 * len(short)
    assert all(sum(rate < 1e-9 for rate in rates.values()) == 1 for rates in (short, whole))  # the last step's
    resumed = train(4, resume=True)
    assert list(resumed) == list(whole)[len(short) :]
    assert resumed == pytest.approx({step: whole[step] for step in resumed})
    assert len(said) == 1 and f"{resumed[len(short)]:.3g}" in said[0]


@pytest.mark.slow
def test_another_rate_is_said_and_the_checkpoints_kept(train, said):
    train(1)
    whole = train(2, "whole")
    resumed = train(2, resume=True, lr=0.5)
    assert resumed == pytest.approx({step: whole[step] for step in resumed})
    assert "0.5" in said[0] and "0.003" in said[0]


def test_a_training_that_is_over_keeps_its_checkpoints_schedule(train, said, monkeypatch):
    train(2)
    monkeypatch.setattr(schedules, "_advance", None)  # as many steps as a hostile file says would take for ever
    assert train(1, resume=True) == {}


@pytest.mark.parametrize(
    "kinds, epochs, fits",
    [
        ([(LinearLR, {"end": 10, "end_factor": 0.0})], 10, True),
        ([(LinearLR, {"end": 10, "end_factor": 0.0})], 20, False),
        ([(LinearLR, {"end": 10, "end_factor": 0.0})], 5, False),
        ([(CosineAnnealingLR, {"end": 10})], 20, False),
        ([(LinearLR, {"end": 3, "by_epoch": False}), (LinearLR, {"end": 10, "end_factor": 0.0})], 10, True),
        ([(LinearLR, {"end": 30, "by_epoch": False}), (LinearLR, {"end": 10, "end_factor": 0.0})], 10, True),
        ([(LinearLR, {"end": 31, "by_epoch": False}), (LinearLR, {"end": 10, "end_factor": 0.0})], 10, False),
        # A warm-up alone, and what has no end.
        ([(LinearLR, {"end": 3})], 10, True),
        ([(ConstantLR, {"end": 3})], 10, True),
        ([(MultiStepLR, {"milestones": [5]})], 10, True),
        ([(LinearLR, {"end": 3}), (MultiStepLR, {"milestones": [5]})], 10, True),
        ([], 10, True),
    ],
)
def test_a_schedule_that_does_not_end_with_the_training_is_told(kinds, epochs, fits):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = [kind(optimizer, **settings) for kind, settings in kinds]
    found = misfit(built, epochs, 3 * epochs)
    assert (found is None) == fits
    if not fits:
        late = max(range(len(built)), key=lambda n: built[n].end)
        assert f"param_scheduler[{late}]" in found and str(built[late].end) in found
