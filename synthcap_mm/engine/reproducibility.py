"""Runs that come out the same, resumed or not."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from synthcap_mm.engine.nested_datasets import nested_datasets
from synthcap_mm.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds all generators anew in each iteration, from (seed, iteration, rank).

    MMEngine restores the seed on resuming, but no random state; with this hook
    there is none to restore. Datasets that have ``set_epoch`` are told the epoch.
    """

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the dataset the epoch."""
        for dataset in nested_datasets(runner.train_dataloader.dataset):
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed Python, NumPy and torch (CPU and GPUs)."""
        digest = hashlib.blake2b(f"{runner.seed}/{runner.iter}/{get_rank()}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "little")
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class ResumeValidationHook(Hook):
    """Validates the epoch that a run is resumed from, as the interrupted run would have.

    MMEngine writes an epoch's checkpoint before it validates. A run that is
    stopped between the two would otherwise go on without having looked at
    that epoch, and could miss the best checkpoint.
    """

    # After CheckpointHook (VERY_LOW), which sets up its folders in before_train.
    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Validate, if resumed at the end of an epoch that is due."""
        loop = runner.train_loop
        epoch = runner.epoch
        due = epoch > 0 and (epoch % loop.val_interval == 0 or epoch == loop.max_epochs)
        if runner._resume and due and epoch >= loop.val_begin and runner.val_loop is not None:
            runner.val_loop.run()
            runner.model.train()
