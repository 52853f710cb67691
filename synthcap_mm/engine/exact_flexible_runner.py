"""MMEngine's ``FlexibleRunner``, whose checkpoints say where they were written."""

from __future__ import annotations

from typing import Any

from mmengine.runner import FlexibleRunner

from synthcap_mm.registry import RUNNERS


@RUNNERS.register_module(name="FlexibleRunner")
class ExactFlexibleRunner(FlexibleRunner):
    """Takes epoch and iteration of a checkpoint from the hook that saves it, as ``Runner`` does.

    MMEngine 0.10's reckons them anew, as if every checkpoint were saved before its epoch is counted. But one that
    turns out the best is saved again after that: resumed from it, a training would leave out an epoch.
    In our scope it goes by ``FlexibleRunner``. Arguments are those of MMEngine's.
    """

    _place: dict[str, int]

    def save_checkpoint(self, *args: Any, meta: dict | None = None, **kwargs: Any) -> None:
        """As MMEngine's; ``epoch`` and ``iter`` of ``meta`` stand."""
        self._place = {key: meta[key] for key in ("epoch", "iter") if key in (meta or {})}
        super().save_checkpoint(*args, meta=meta, **kwargs)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As MMEngine's."""
        if fn_name == "before_save_checkpoint":
            kwargs["checkpoint"]["meta"].update(self._place)
        super().call_hook(fn_name, **kwargs)
