"""Ends a training that has diverged, before it validates or saves anything."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from synthcap_mm.checkpoints import latest_checkpoint
from synthcap_mm.errors import UserError, listed
from synthcap_mm.registry import HOOKS
from synthcap_mm.weights_files import not_finite


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stops a training whose loss or weights are not finite. (Loading refuses such weights too: ``loading.py``.)

    Losses are looked at after each iteration, on a GPU every ``interval`` ones (looking waits for it); weights before
    each validation and checkpoint, so that no checkpoint is saved, or called the best, with weights that are NaN.
    The package's commands add the hook to every run.

    Args:
        interval: iterations between two looks at the losses on a GPU. Default 50.
    """

    priority = "VERY_HIGH"

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._finite: torch.Tensor | bool = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Look at the loss."""
        loss = (outputs or {}).get("loss")
        if not isinstance(loss, torch.Tensor):
            return
        self._finite = torch.isfinite(loss.detach()).all() & self._finite
        if (loss.device.type == "cpu" or self.every_n_train_iters(runner, self.interval)) and not self._finite:
            self._stop(runner, f"the loss of iteration {runner.iter + 1} is {float(loss.detach())}")

    def before_val(self, runner: Runner) -> None:
        """Look at the weights."""
        self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Look at the weights."""
        self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Look at the weights that are to be saved."""
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        if not self._finite:
            self._stop(runner, f"a loss was not finite before iteration {runner.iter}")
        trained = {name: value for name, value in runner.model.named_parameters() if value.requires_grad}
        if bad := not_finite(trained):
            self._stop(runner, f"after iteration {runner.iter} {len(bad)} weights are not finite ({listed(bad, 3)})")

    @staticmethod
    def _stop(runner: Runner, why: str) -> None:
        last = latest_checkpoint(runner.work_dir, runner.cfg)
        kept = f"The last good checkpoint is {last}" if last else "No checkpoint was saved before"
        raise UserError(
            f"the training diverged: {why}. {kept}. A lower learning rate "
            "(optim_wrapper.optimizer.lr), a longer warm-up or clipping of gradients (optim_wrapper.clip_grad) helps"
        )
