"""What a captioner was trained with (encoder, tokenizer, memory): written into checkpoints, compared in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from synthcap_mm.datasets.synth_pair_dataset import SynthPairDataset
from synthcap_mm.engine.nested_datasets import nested_datasets
from synthcap_mm.errors import UserError
from synthcap_mm.files import write_atomically
from synthcap_mm.models.captioner import SynthCaptioner
from synthcap_mm.registry import HOOKS

#: Where a checkpoint's ``meta`` has :attr:`SynthCaptioner.identity`, and the identities of the training data.
META, DATA = "captioner", "training_data"


@HOOKS.register_module()
class CaptionerIdentityHook(Hook):
    """Refuses to mix features of different encoders in one run, and words of different tokenizers.

    Compares the encoder of each dataset's store with the captioner's; before training, also that ``exclude_self``
    counts in the rows of the store that is trained on. Writes the captioner's identity into the checkpoint's ``meta``,
    and compares it when one is loaded; a training is resumed on the data that it began with only. The tokenizer is
    copied into the work dir, where it stays when the store grows. The package's commands add the hook to every run.
    """

    priority = "VERY_LOW"

    def before_train(self, runner: Runner) -> None:
        """Check the training pairs, and the validation set with them."""
        captioner = _captioner(runner)
        if captioner is not None:
            for store in _stores(runner.train_dataloader):
                captioner.check_encoders(store, f"the store {store.path}")
                captioner.check_rows(store)
        if runner.val_loop is not None:
            self._check(captioner, runner.val_dataloader)
        if captioner is not None and is_main_process():
            with write_atomically(Path(runner.work_dir) / "tokenizer.json") as file:
                file.write(captioner.data_preprocessor.tokenizer.path.read_bytes())

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
            checkpoint["meta"][DATA] = _training_data(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare it."""
        if (captioner := _captioner(runner)) is not None:
            captioner.check_identity(checkpoint.get("meta", {}).get(META))
        before, now = (checkpoint.get("meta", {}).get(DATA), _training_data(runner))
        if captioner is not None and before:
            memory = checkpoint["meta"][META]["memory_sha256"]
            before, now = [*before, memory], [*now, captioner.identity["memory_sha256"]] if now else now
        if getattr(runner, "_resume", False) and before and now and before != now:
            raise UserError(
                "the store has changed since this training began (captions, pairs or features), so that it cannot be "
                "resumed as if nothing had happened: begin a new one (with load_from it starts from these weights)"
            )

    @staticmethod
    def _check(captioner: SynthCaptioner | None, loader: DataLoader) -> None:
        for store in _stores(loader) if captioner is not None else ():
            captioner.check_encoders(store, f"the store {store.path}")
            for name in captioner.encoders_needed:
                store.fingerprint_of(name)  # refuses a store that lacks them before the first epoch is over


def _captioner(runner: Runner) -> SynthCaptioner | None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model if isinstance(model, SynthCaptioner) else None


def _training_data(runner: Runner) -> list[str]:
    """Identities of the datasets that are trained on; none before they are built."""
    loop = getattr(runner, "_train_loop", None)
    if not isinstance(loop, BaseLoop):
        return []
    return [d.identity for d in nested_datasets(loop.dataloader.dataset) if isinstance(d, SynthPairDataset)]


def _stores(loader: DataLoader) -> list[Any]:
    stores = [getattr(dataset, "store", None) for dataset in nested_datasets(loader.dataset)]
    return [store for store in stores if store is not None]
