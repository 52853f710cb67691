"""MMEngine's ``FlexibleRunner``, whose checkpoints are whole, and say where they were written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.runner import FlexibleRunner

from synthcap_mm.registry import RUNNERS


@RUNNERS.register_module(name="FlexibleRunner")
class ExactFlexibleRunner(FlexibleRunner):
    """Writes checkpoints as ``Runner`` does with our atomic backend, whatever the strategy.

    MMEngine 0.10's writes them in place, so that a kill leaves half a file under the name of a whole one. And it
    reckons their epoch anew, as if each were saved before its epoch is counted; but one that turns out the best is
    saved again after that: resumed from it, a training would leave out an epoch. In our scope this class goes by
    ``FlexibleRunner``. Arguments are those of MMEngine's. For strategies whose checkpoint is one file.
    """

    _place: dict[str, int]

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any) -> None:
        """As MMEngine's, under another name until all is on the disk; ``epoch`` and ``iter`` of ``meta`` stand."""
        self._place = {key: meta[key] for key in ("epoch", "iter") if key in (meta or {})}
        # The name is fixed, so that what a killed run left is overwritten by the next.
        half = f".{filename}.tmp"
        super().save_checkpoint(out_dir, half, *args, meta=meta, **kwargs)
        if is_main_process():
            with open(Path(out_dir) / half, "rb") as file:
                os.fsync(file.fileno())
            os.replace(Path(out_dir) / half, Path(out_dir) / filename)
        barrier()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As MMEngine's."""
        if fn_name == "before_save_checkpoint":
            kwargs["checkpoint"]["meta"].update(self._place)
        super().call_hook(fn_name, **kwargs)
