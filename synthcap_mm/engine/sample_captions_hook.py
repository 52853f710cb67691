"""Seeing a captioner learn."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from synthcap_mm.options import CountOrZero
from synthcap_mm.registry import HOOKS
from synthcap_mm.structures import CaptionSample


@HOOKS.register_module()
class SampleCaptionsHook(Hook):
    """Logs what is written for the first few validation images, the same ones each time.

    Args:
        num: how many. Default 4.
    """

    priority = "LOW"

    def __init__(self, num: CountOrZero = 4) -> None:
        self.num = num
        self._seen: list[CaptionSample] = []

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin anew."""
        self._seen = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Sequence[CaptionSample] | None = None
    ) -> None:
        """Keep the first few (the order of a validation loader is fixed)."""
        if is_main_process() and len(self._seen) < self.num:
            self._seen += list(outputs or [])[: self.num - len(self._seen)]

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Log them."""
        for sample in self._seen:
            tags = f" [{', '.join(sample.pred_tags)}]" if sample.pred_tags else ""
            reference = f"   | {sample.references[0]}" if sample.references else ""
            runner.logger.info(f"caption of {sample.key}{tags}: {sample.pred_caption}{reference}")
