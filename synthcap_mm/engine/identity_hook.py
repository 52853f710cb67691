"""What a captioner was trained with (encoder, tokenizer, memory): written into checkpoints, compared in each run."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from synthcap_mm.engine.nested_datasets import nested_datasets
from synthcap_mm.models.captioner import SynthCaptioner
from synthcap_mm.registry import HOOKS

#: Where a checkpoint's ``meta`` has :attr:`SynthCaptioner.identity`.
META = "captioner"


@HOOKS.register_module()
class CaptionerIdentityHook(Hook):
    """Refuses to mix features of different encoders in one run, and words of different tokenizers.

    Compares the encoder of each dataset's store with the captioner's; before training, also that ``exclude_self``
    counts in the rows of the store that is trained on. Writes the captioner's identity into the checkpoint's ``meta``,
    and compares it when one is loaded. The package's commands add it to every run.
    """

    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        """Check the training pairs, and the validation set with them."""
        captioner = _captioner(runner)
        self._check(captioner, runner.train_dataloader)
        if captioner is not None:
            for store in _stores(runner.train_dataloader):
                captioner.check_rows(store)
        if runner.val_loop is not None:
            self._check(captioner, runner.val_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Check the validation set."""
        self._check(_captioner(runner), runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Check the test set."""
        self._check(_captioner(runner), runner.test_dataloader)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write the identity."""
        if (captioner := _captioner(runner)) is not None:
            checkpoint["meta"][META] = captioner.identity

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare it."""
        if (captioner := _captioner(runner)) is not None:
            captioner.check_identity(checkpoint.get("meta", {}).get(META))

    @staticmethod
    def _check(captioner: SynthCaptioner | None, loader: DataLoader) -> None:
        for store in _stores(loader) if captioner is not None else ():
            captioner.check_encoder(store.encoder, f"the store {store.path}")


def _captioner(runner: Runner) -> SynthCaptioner | None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model if isinstance(model, SynthCaptioner) else None


def _stores(loader: DataLoader) -> list[Any]:
    stores = [getattr(dataset, "store", None) for dataset in nested_datasets(loader.dataset)]
    return [store for store in stores if store is not None]
