"""A dry run is of the config's own training, counts it rightly, and leaves nothing."""

import dataclasses
import os
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.engine.dry_run import TIMED, WARM_UP, _validations, dry_run
from synthcap_mm.errors import UserError
from synthcap_mm.models.captioner import SynthCaptioner
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store

_NUMBER = iter(range(1000))


@pytest.fixture()
def cfg(tiny_model, tiny_stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    tiny_model["data_preprocessor"]["prompt"] = None

    def loader(split, batch):
        return {
            "batch_size": batch,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": split == "train"},
            "dataset": {"type": "SynthPairDataset", "store": tiny_stores[0], "split": split},
        }

    return Config(
        {
            "config_name": "dry",
            "default_scope": "synthcap_mm",
            "experiment_name": f"dry{next(_NUMBER)}",
            "work_dir": str(tmp_path / "work"),
            "model": tiny_model,
            "train_dataloader": loader("train", 2),
            "val_dataloader": loader("heldout", 1),
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 7, "val_interval": 2},
            "val_cfg": {"type": "ValLoop"},
            "val_evaluator": [{"type": "CaptionMetric", "metrics": ["length"]}],
            "optim_wrapper": {
                "type": "AutocastOptimWrapper",
                "dtype": "float32",
                "optimizer": {"type": "AdamW", "lr": 0.01},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 30},
                {"type": "MultiStepLR", "by_epoch": True, "milestones": [5], "gamma": 0.5},
            ],
            "default_hooks": {"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1}},
            "custom_hooks": [{"type": "IterationSeedHook"}, {"type": "CaptionerIdentityHook"}],
            "randomness": {"seed": 0},
        }
    )


def test_it_counts_and_leaves_nothing(cfg, tiny_stores, tmp_path):
    cost = dry_run(cfg)
    assert os.listdir(tmp_path) == ["tmp"]
    assert [n for n in os.listdir(tmp_path / "tmp") if "torchinductor" not in n] == []  # torch's own cache
    model = MODELS.build(cfg.model)
    assert (cost.trained, cost.frozen) == (sum(p.numel() for p in model.parameters()), 0)
    train, heldout = (len(SynthPairDataset(tiny_stores[0], split=s)) for s in ("train", "heldout"))
    rows = len(Store.open(tiny_stores[0]).caption_rows("train"))
    assert cost.memories == [("TextMemoryProjection", rows, 32)]
    length = -(-train // 2)
    assert (cost.batch, cost.epochs, cost.steps, cost.ranks) == (2, 7, 7 * length, 1)
    assert (cost.validations, cost.val_batches) == (4, heldout)
    assert cost.rates == [(0, pytest.approx(1e-3)), (29, pytest.approx(1e-2)), (7 * length - 1, pytest.approx(5e-3))]
    assert cost.step > 0 and cost.val_batch > 0 and cost.peak > 50e6 and cost.checkpoint == 12 * cost.trained
    said = dataclasses.replace(cost, steps=100, step=0.5, val_batches=10, val_batch=2.0).describe()
    assert f"{cost.trained:,} trained" in said and "100 steps: 50 s\n" in said and "1 min 20 s in all 4" in said


def test_it_takes_few_steps_and_never_a_whole_epoch(cfg, monkeypatch):
    steps = []
    original = SynthCaptioner.train_step
    monkeypatch.setattr(
        SynthCaptioner, "train_step", lambda self, *a, **k: (steps.append(1), original(self, *a, **k))[1]
    )
    dry_run(cfg)
    assert len(steps) == WARM_UP + TIMED
    steps.clear()
    cfg.train_dataloader.batch_size = 18  # two steps an epoch; a third would be after a validation and a checkpoint
    cfg.experiment_name += "short"
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cost = dry_run(cfg)
    assert len(steps) == 2 and cost.steps == 14 and cost.val_batch is None
    assert cost.rates[-1][0] == 13
    assert "validation" not in cost.describe()


def test_what_does_not_fit_is_told(cfg, monkeypatch):
    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr(SynthCaptioner, "train_step", full)
    with pytest.raises(UserError, match=r"train_dataloader\.batch_size"):
        dry_run(cfg)


def test_the_frozen_are_counted(cfg, monkeypatch):
    class Frozen(SynthCaptioner):
        """Of which the decoder's embeddings do not learn."""

        def __init__(self, **settings):
            super().__init__(**settings)
            self.head.decoder.get_input_embeddings().requires_grad_(False)

    monkeypatch.setitem(MODELS.module_dict, "FrozenCaptioner", Frozen)
    cfg.model.type = "FrozenCaptioner"
    model = MODELS.build(cfg.model)
    cost = dry_run(cfg)
    assert cost.frozen == model.head.decoder.get_input_embeddings().weight.numel()
    assert cost.trained + cost.frozen == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind, last", [(EpochBasedTrainLoop, "max_epochs"), (IterBasedTrainLoop, "max_iters")])
@pytest.mark.parametrize("begin, interval", [(1, 1), (6, 1), (4, 3), (1, 99), (11, 1)])
def test_validations_are_counted_as_the_loop_makes_them(kind, last, begin, interval, monkeypatch):
    made = []
    runner = MagicMock()
    runner.val_loop.run = lambda: made.append(1)
    loader = DataLoader([0] * 10)
    loop = kind(runner, loader, **{last: 10}, val_begin=begin, val_interval=interval)
    monkeypatch.setattr(loop, "run_epoch", lambda: setattr(loop, "_epoch", loop._epoch + 1), raising=False)
    monkeypatch.setattr(loop, "run_iter", lambda *data: setattr(loop, "_iter", loop._iter + 1))
    loop.run()
    assert _validations(loop) == len(made)
