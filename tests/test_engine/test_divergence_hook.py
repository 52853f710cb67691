"""A training that diverges ends with the iteration and the last good checkpoint; nothing of it is kept as good."""

import pytest
import torch
from small_runner import make_runner

from synthcap_mm.errors import UserError
from synthcap_mm.weights_files import not_finite, read_checkpoint

HOOK = {"type": "DivergenceHook"}


def spoil(runner, iteration):
    """Let the step of an iteration write weights that are not finite."""
    step = runner.model.train_step

    def train_step(data, optim_wrapper):
        found = step(data, optim_wrapper)
        if runner.iter == iteration:
            next(p for p in runner.model.parameters() if p.requires_grad).data.fill_(float("nan"))
        return found

    runner.model.train_step = train_step


@pytest.mark.parametrize("last", [False, True])
def test_it_stops_and_keeps_good_checkpoints_only(tiny_model, tiny_stores, tmp_path, last):
    tiny_model["head"]["generation"] = {"num_beams": 1}
    runner, diary = make_runner(tiny_model, tiny_stores, tmp_path, hooks=[HOOK], epochs=3)
    an_epoch = len(runner.build_dataloader(runner._train_dataloader))
    spoil(runner, 2 * an_epoch - 1 if last else an_epoch + 1)
    with pytest.raises(UserError, match=rf"iteration {2 * an_epoch if last else an_epoch + 3} .*epoch_1\.pth"):
        runner.train()
    kept = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert kept and all("epoch_1" in name for name in kept)
    for name in kept:
        assert not not_finite(read_checkpoint(tmp_path / name)["state_dict"])
    assert set(diary.scores) == {1}


def test_such_a_checkpoint_is_not_loaded(tiny_model, tiny_stores, tmp_path):
    runner, _ = make_runner(tiny_model, tiny_stores, tmp_path / "a")
    runner.save_checkpoint(str(tmp_path), "good.pth", save_optimizer=False, save_param_scheduler=False)
    checkpoint = read_checkpoint(tmp_path / "good.pth")
    next(iter(checkpoint["state_dict"].values()))[...] = float("inf")
    torch.save(checkpoint, tmp_path / "bad.pth")
    runner.load_checkpoint(str(tmp_path / "good.pth"))
    with pytest.raises(UserError, match="finite"):
        runner.load_checkpoint(str(tmp_path / "bad.pth"))
