"""FlexibleRunner on one device: learns what Runner learns, and its checkpoints are exact and whole."""

import copy
import itertools

import mmengine.runner.checkpoint
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from small_runner import Stopped, equal, make_runner

from synthcap_mm.engine import ExactFlexibleRunner
from synthcap_mm.engine.runners import build_runner
from synthcap_mm.errors import UserError

_NUMBERS = itertools.count()


@pytest.fixture()
def cfg(tiny_model, tiny_stores, tmp_path):
    """The config of small_runner's run, for another runner."""
    runner, _ = make_runner(tiny_model, tiny_stores, tmp_path / "unused", epochs=2)
    fields = ("train_dataloader", "val_dataloader", "test_dataloader")
    loops = {"train_cfg": runner._train_loop, "val_cfg": runner._val_loop, "test_cfg": runner._test_loop}
    made = {name: copy.deepcopy(getattr(runner, f"_{name}")) for name in fields}

    def make(name, **changes):
        return Config(
            {
                **copy.deepcopy({**made, **loops}),
                "model": copy.deepcopy(tiny_model),
                "val_evaluator": {"type": "TinyScore"},
                "test_evaluator": {"type": "TinyScore"},
                "optim_wrapper": {
                    "type": "AutocastOptimWrapper",
                    "dtype": "float32",
                    "clip_grad": {"max_norm": 0.5},
                    "optimizer": {"type": "AdamW", "lr": 3e-3},
                },
                "param_scheduler": [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 5}],
                "default_hooks": {
                    "checkpoint": {
                        "type": "CheckpointHook",
                        "interval": 1,
                        "save_best": "score",
                        "rule": "greater",
                        "backend_args": {"backend": "atomic"},
                    }
                },
                "custom_hooks": [{"type": "IterationSeedHook"}, {"type": "ResumeValidationHook"}],
                "default_scope": "synthcap_mm",
                "randomness": {"seed": 0},
                "log_level": "ERROR",
                "launcher": "none",
                "env_cfg": {"dist_cfg": {"backend": "gloo"}},
                "work_dir": str(tmp_path / name),
                "experiment_name": f"exact{next(_NUMBERS)}",
                **changes,
            }
        )

    return make


def load(path):
    return torch.load(path, weights_only=False)


def test_it_learns_what_runner_learns_and_resumes_exactly(cfg, tmp_path):
    runner = build_runner(cfg("flexible", runner_type="FlexibleRunner"))
    assert isinstance(runner, ExactFlexibleRunner)
    runner.train()
    whole = build_runner(cfg("usual"))
    assert type(whole) is Runner
    whole.train()
    steps = len(whole.train_dataloader)
    best = sorted(p.name for p in (tmp_path / "usual").glob("best_*.pth"))
    assert sorted(p.name for p in (tmp_path / "flexible").glob("*.pth")) == [
        *best,
        "epoch_1.pth",
        "epoch_2.pth",
    ]
    for name in (*best, "epoch_1.pth", "epoch_2.pth"):
        ours, usual = load(tmp_path / "flexible" / name), load(tmp_path / "usual" / name)
        assert equal(ours["state_dict"], usual["state_dict"])
        assert {k: ours["meta"][k] for k in ("epoch", "iter")} == {k: usual["meta"][k] for k in ("epoch", "iter")}
        assert ours["meta"]["iter"] == ours["meta"]["epoch"] * steps
    assert not list((tmp_path / "flexible").glob(".*.tmp"))
    start = str(tmp_path / "flexible" / "epoch_1.pth")
    build_runner(cfg("resumed", runner_type="FlexibleRunner", load_from=start, resume=True)).train()
    resumed = load(tmp_path / "resumed" / "epoch_2.pth")
    assert equal(resumed["state_dict"], load(tmp_path / "usual" / "epoch_2.pth")["state_dict"])


def test_a_run_that_dies_while_it_saves_leaves_no_half_checkpoint(cfg, tmp_path, monkeypatch):
    def half(checkpoint, filename, *args, **kwargs):
        with open(filename, "wb") as file:
            file.write(b"half of it")
        raise Stopped

    monkeypatch.setattr(mmengine.runner.checkpoint, "save_checkpoint", half)
    with pytest.raises(Stopped):
        build_runner(cfg("dies", runner_type="FlexibleRunner")).train()
    assert [p.name for p in (tmp_path / "dies").rglob("*.pth*")] == [".epoch_1.pth.tmp"]
    monkeypatch.undo()
    build_runner(
        cfg("dies", runner_type="FlexibleRunner", train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": 1})
    ).train()
    assert load(tmp_path / "dies" / "epoch_1.pth")["meta"]["epoch"] == 1
    assert not list((tmp_path / "dies").glob(".*.tmp"))


def test_a_strategy_wants_the_runner_that_takes_it(cfg):
    with pytest.raises(UserError, match="runner_type"):
        build_runner(cfg("no", strategy={"type": "DecoderFSDPStrategy"}))
