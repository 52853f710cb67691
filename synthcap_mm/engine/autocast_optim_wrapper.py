"""bfloat16 training on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from synthcap_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Runs the forward in a lower precision; the same config on GPUs and on CPUs.

    MMEngine's ``AmpOptimWrapper`` refuses to run without a GPU, and brings a loss
    scaler that bfloat16 does not need.

    Args:
        dtype: ``'bfloat16'``, or ``'float32'`` for none. Default ``'bfloat16'``.
        **kwargs: of MMEngine's ``OptimWrapper``.

    Raises:
        ValueError: for another dtype (float16 needs a scaler: ``AmpOptimWrapper``).
    """

    def __init__(self, dtype: str = "bfloat16", **kwargs: Any) -> None:
        if dtype not in ("bfloat16", "float32"):
            raise ValueError(
                f"dtype is 'bfloat16' or 'float32', not {dtype!r}; float16 needs MMEngine's AmpOptimWrapper"
            )
        super().__init__(**kwargs)
        self.dtype = dtype

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward and the loss."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            yield
