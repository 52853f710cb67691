"""A run that was stopped and resumed is the run that was not."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runner import Stopped, equal, make_runner

from synthcap_mm.engine import IterationSeedHook, ResumeValidationHook

#: Iterations of an epoch: 30 captions in batches of 8.
STEPS = 4


@pytest.fixture()
def dropping(tiny_model):
    """The tiny captioner with everything random switched on, and short captions."""
    tiny_model["head"].update(dropout=0.2, generation={"num_beams": 2})
    tiny_model["data_preprocessor"]["prompt"].update(drop=0.4, drop_all=0.2)
    tiny_model["data_preprocessor"]["max_length"] = 10
    return tiny_model


def checkpoint(folder, pattern):
    (path,) = folder.glob(pattern)
    return path.name, torch.load(path, weights_only=False)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run of four epochs, once it was made: ``(folder, diary)``."""
    made = []

    def run(model, stores):
        if not made:
            folder = tmp_path_factory.mktemp("whole")
            runner, diary = make_runner(model, stores, folder)
            runner.train()
            made.append((folder, diary))
        return made[0]

    return run


@pytest.fixture()
def whole(dropping, tiny_stores, whole_run):
    """See ``whole_run``."""
    return whole_run(dropping, tiny_stores)


def assert_same_run(whole, folder, diary, first_iter):
    straight, straight_diary = whole
    assert min(diary.losses) == first_iter
    for number, entry in diary.losses.items():
        assert entry == straight_diary.losses[number]
    for epoch, scores in diary.scores.items():
        assert scores == straight_diary.scores[epoch]
    assert max(diary.losses) == max(straight_diary.losses) == 4 * STEPS - 1
    for pattern in ("epoch_4.pth", "epoch_3.pth", "best_*.pth"):
        (name_a, a), (name_b, b) = checkpoint(straight, pattern), checkpoint(folder, pattern)
        assert name_a == name_b
        for part in ("state_dict", "optimizer", "param_schedulers"):  # the best has only the first
            assert equal(a.get(part), b.get(part)), (pattern, part)
    assert sorted(p.name for p in straight.glob("*.pth")) == sorted(p.name for p in folder.glob("*.pth"))


def test_the_run_learns_and_draws_at_random(whole):
    _, diary = whole
    losses = [loss for loss, _ in diary.losses.values()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    orders = [[i for _, ids in list(diary.losses.values())[e * STEPS : (e + 1) * STEPS] for i in ids] for e in range(4)]
    assert sorted(orders[0])[:3] == [0, 1, 2] and len({tuple(o) for o in orders}) == 4
    assert len({tuple(s.items()) for s in diary.scores.values()}) > 1  # else the best checkpoint would tell nothing


@pytest.mark.parametrize(
    "stop, first_iter",
    [
        (("iter", 2 * STEPS + 2), 2 * STEPS),  # in the midst of the third epoch
        (("val", 2), 2 * STEPS),  # between the checkpoint of an epoch and its validation
        (("in_val", 3), 3 * STEPS),
    ],
)
def test_stopped_and_resumed_is_the_same_run(whole, dropping, tiny_stores, tmp_path, stop, first_iter):
    runner, _ = make_runner(dropping, tiny_stores, tmp_path, stop=stop)
    with pytest.raises(Stopped):
        runner.train()
    runner, diary = make_runner(dropping, tiny_stores, tmp_path, resume=True)
    runner.train()
    assert_same_run(whole, tmp_path, diary, first_iter)
    assert first_iter // STEPS in diary.scores  # the validation that was due has been made up for


def test_a_run_stopped_before_its_last_validation_still_has_its_best(whole, dropping, tiny_stores, tmp_path):
    runner, _ = make_runner(dropping, tiny_stores, tmp_path, stop=("val", 4))
    with pytest.raises(Stopped):
        runner.train()
    runner, diary = make_runner(dropping, tiny_stores, tmp_path, resume=True)
    runner.train()
    assert diary.losses == {} and diary.scores == {4: whole[1].scores[4]}
    (name_a, a), (name_b, b) = checkpoint(whole[0], "best_*.pth"), checkpoint(tmp_path, "best_*.pth")
    assert name_a == name_b and equal(a["state_dict"], b["state_dict"])


def test_two_epochs_then_four_with_workers(whole, dropping, tiny_stores, tmp_path):
    """Two worker processes, twice stopped."""
    runner, _ = make_runner(dropping, tiny_stores, tmp_path, epochs=2, end=4, workers=2)
    runner.train()
    runner, diary = make_runner(dropping, tiny_stores, tmp_path, resume=True, workers=2)
    runner.train()
    assert_same_run(whole, tmp_path, diary, 2 * STEPS)


# ---- the hooks by themselves
def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_an_iterations_draws_depend_on_seed_iteration_and_rank_only(monkeypatch):
    hook, made = IterationSeedHook(), {}
    from synthcap_mm.engine import reproducibility

    for seed, number, rank in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]:
        monkeypatch.setattr(reproducibility, "get_rank", lambda rank=rank: rank)
        draw()
        hook.before_train_iter(SimpleNamespace(seed=seed, iter=number), 0)
        drawn = draw()
        assert made.setdefault((seed, number, rank), drawn) == drawn
    assert len(set(made.values())) == 4
    assert len({d for draws in made.values() for d in draws}) == 12


def test_datasets_are_told_the_epoch():
    told = []

    def begin(dataset):
        runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=dataset), epoch=7)
        IterationSeedHook().before_train_epoch(runner)

    teller = SimpleNamespace(set_epoch=told.append)
    begin([])
    begin(teller)
    assert told == [7]
    begin(SimpleNamespace(datasets=[teller, SimpleNamespace(dataset=teller)]))  # concatenated, and repeated
    assert told == [7, 7, 7]


@pytest.mark.parametrize(
    "resumed, epoch, interval, begin, validates",
    [
        (True, 2, 1, 1, True),
        (False, 2, 1, 1, False),
        (True, 0, 1, 1, False),
        (True, 3, 2, 1, False),
        (True, 4, 2, 1, True),
        (True, 5, 2, 1, True),  # the last epoch is validated whatever the interval
        (True, 2, 1, 3, False),
    ],
)
def test_only_a_validation_that_was_due_is_made_up_for(resumed, epoch, interval, begin, validates):
    ran = []
    runner = SimpleNamespace(
        train_loop=SimpleNamespace(val_interval=interval, max_epochs=5, val_begin=begin),
        epoch=epoch,
        _resume=resumed,
        val_loop=SimpleNamespace(run=lambda: ran.append(1)),
        model=SimpleNamespace(train=lambda: None),
    )
    ResumeValidationHook().before_train(runner)
    assert bool(ran) == validates
    runner.val_loop = None
    ResumeValidationHook().before_train(runner)
