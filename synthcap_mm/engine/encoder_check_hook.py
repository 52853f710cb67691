"""Features of one encoder only."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from synthcap_mm.engine.nested_datasets import nested_datasets
from synthcap_mm.registry import HOOKS


@HOOKS.register_module()
class EncoderCheckHook(Hook):
    """Refuses to mix features of different encoders in one run.

    Compares the encoder's fingerprint of each dataset's store with that of the
    store (or checkpoint) that the captioner belongs to.
    """

    priority = "VERY_LOW"

    def _check(self, runner: Runner, loader: DataLoader) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        encoder = getattr(model, "encoder", None)
        for dataset in nested_datasets(loader.dataset):
            store = getattr(dataset, "store", None)
            if store is not None and encoder is not None:
                store.check_encoder(encoder, "the captioner's")

    def before_train(self, runner: Runner) -> None:
        """Check the training pairs, and the validation set with them."""
        self._check(runner, runner.train_dataloader)
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        self._check(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test set."""
        self._check(runner, runner.test_dataloader)
