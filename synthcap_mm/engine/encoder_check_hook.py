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

    Compares the encoder's fingerprint of each dataset's store, and of each neck's
    memory, with that of the store (or checkpoint) that the captioner belongs to.
    Before training, a memory with ``exclude_self`` must also be of the store that
    is trained on, since it counts in that store's rows.
    """

    priority = "VERY_LOW"

    def _check(self, runner: Runner, loader: DataLoader) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        encoder = getattr(model, "encoder", None)
        for dataset in nested_datasets(loader.dataset):
            store = getattr(dataset, "store", None)
            if store is not None and encoder is not None:
                store.check_encoder(encoder, "the captioner's")
        if encoder is not None and hasattr(model, "check_memories"):
            model.check_memories(encoder)

    def _check_rows(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for neck in getattr(model, "necks", ()):
            for dataset in nested_datasets(runner.train_dataloader.dataset):
                store = getattr(dataset, "store", None)
                if store is not None and hasattr(neck, "expect_rows_of"):
                    neck.expect_rows_of(store)

    def before_train(self, runner: Runner) -> None:
        """Check the training pairs, and the validation set with them."""
        self._check(runner, runner.train_dataloader)
        self._check_rows(runner)
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        self._check(runner, runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test set."""
        self._check(runner, runner.test_dataloader)
