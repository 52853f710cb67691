"""A small Runner on the tiny captioner, as a config would make it."""

import copy
import itertools

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from synthcap_mm.engine.loading import explain_loading
from synthcap_mm.engine.resuming import ResumeHook
from synthcap_mm.engine.schedules import ScheduleHook
from synthcap_mm.registry import HOOKS, METRICS

_NUMBERS = itertools.count()


class Stopped(BaseException):
    """The end of a run that nobody expected."""


@METRICS.register_module(force=True)
class TinyScore(BaseMetric):
    """Share of the written words that a reference has, and how sure the captioner was."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            words = sample.pred_caption.split()
            hits = sum(any(w in r.split() for r in sample.references) for w in words)
            self.results.append((hits / max(len(words), 1), sample.pred_logprobs[0]))

    def compute_metrics(self, results):
        share, sure = (sum(column) / len(results) for column in zip(*results))
        return {"share": share, "score": share + sure / 1000}


@HOOKS.register_module(force=True)
class Diary(Hook):
    """Writes down every loss, learning rate and score, and stops the run where it is told.

    Args:
        stop: ``('iter', n)``: before iteration n; ``('val', epoch)``: after that
            epoch's checkpoint, before its validation; ``('in_val', epoch)``: in its
            midst; ``('after_val', epoch)``.
    """

    priority = "LOWEST"

    def __init__(self, stop=None):
        self.stop = stop
        self.losses, self.rates, self.scores = {}, {}, {}

    def _at(self, *place):
        if self.stop == place:
            raise Stopped

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._at("iter", runner.iter)
        self.rates[runner.iter] = runner.optim_wrapper.get_lr()["lr"][0]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = (outputs["loss"].item(), [s.sample_id for s in data_batch])

    def before_val(self, runner):
        self._at("val", runner.epoch)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0:
            self._at("in_val", runner.epoch)

    def after_val_epoch(self, runner, metrics=None):
        self.scores[runner.epoch] = dict(metrics)

    def after_val(self, runner):
        self._at("after_val", runner.epoch)


def make_runner(
    model, stores, work_dir, stop=None, resume=False, workers=0, epochs=4, end=None, lr=3e-3, hooks=(), **changes
):
    """A Runner with the hooks of ``configs/_base_/default_runtime.py``, and its diary."""
    pairs, photos = stores

    def loader(dataset, shuffle, batch_size):
        return {
            "batch_size": batch_size,
            "num_workers": workers,
            "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
            "dataset": dataset,
            "collate_fn": {"type": "pseudo_collate"},
        }

    torch.manual_seed(next(_NUMBERS))  # nothing may depend on what was drawn before
    runner = Runner(
        model=copy.deepcopy(model),
        work_dir=str(work_dir),
        experiment_name=f"run{next(_NUMBERS)}",
        train_dataloader=loader({"type": "SynthPairDataset", "store": pairs, "refined": True}, True, 8),
        val_dataloader=loader({"type": "SynthPairDataset", "store": pairs, "split": "heldout"}, False, 2),
        test_dataloader=loader({"type": "CaptionEvalDataset", "store": photos}, False, 5),
        train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": epochs, "val_interval": 1},
        val_cfg={"type": "ValLoop"},
        test_cfg={"type": "TestLoop"},
        val_evaluator={"type": "TinyScore"},
        test_evaluator={"type": "TinyScore"},
        optim_wrapper={"type": "AutocastOptimWrapper", "dtype": "float32", "optimizer": {"type": "AdamW", "lr": lr}},
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 3},
            {
                "type": "LinearLR",
                "start_factor": 1.0,
                "end_factor": 0.0,
                "by_epoch": True,
                "convert_to_iter_based": True,
                "end": end or epochs,
            },
        ],
        default_hooks={
            "timer": {"type": "IterTimerHook"},
            "logger": {"type": "LoggerHook", "interval": 2},
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 1,
                "save_best": "score",
                "rule": "greater",
                "max_keep_ckpts": 2,
                "backend_args": {"backend": "atomic"},
            },
            "sampler_seed": {"type": "DistSamplerSeedHook"},
        },
        custom_hooks=[
            {"type": "IterationSeedHook"},
            {"type": "CaptionerIdentityHook"},
            {"type": "SampleCaptionsHook", "num": 3},
            {"type": "ResumeValidationHook"},
            {"type": "Diary", "stop": stop},
            *hooks,
        ],
        default_scope="synthcap_mm",
        randomness={"seed": 0},
        resume=resume,
        log_level="ERROR",
        **changes,
    )
    runner.register_hook(ResumeHook())
    runner.register_hook(ScheduleHook())
    explain_loading(runner)  # as ``build_runner`` does
    diary = next(h for h in runner.hooks if isinstance(h, Diary))
    return runner, diary


def equal(a, b):
    """Whether two checkpoints, or parts of them, are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
