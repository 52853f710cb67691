"""bfloat16 training on any device."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from synthcap_mm.registry import OPTIM_WRAPPERS


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; ``True`` where torch does not say."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    if known.get("architecture") != "x86_64" or known.get("avx512_bf16") or known.get("amx_bf16"):
        return True
    print_log("this CPU has no instructions for bfloat16: trained in float32, which is faster here", logger="current")
    return False


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Runs the forward in a lower precision; the same config on GPUs and on CPUs.

    MMEngine's ``AmpOptimWrapper`` refuses to run without a GPU, and brings a loss
    scaler that bfloat16 does not need.

    Args:
        dtype: ``'bfloat16'``, or ``'float32'`` for none; float16 needs MMEngine's ``AmpOptimWrapper``, which scales the
            loss. A CPU without instructions for bfloat16 trains in float32, faster. Default ``'bfloat16'``.
        **kwargs: of MMEngine's ``OptimWrapper``.
    """

    def __init__(self, dtype: Literal["bfloat16", "float32"] = "bfloat16", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dtype = dtype
        self._sharded: FullyShardedDataParallel | None = None

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the forward and the loss."""
        self._sharded = model if isinstance(model, FullyShardedDataParallel) else None
        device = next(model.parameters()).device.type
        lower = self.dtype == "bfloat16" and (device != "cpu" or cpu_has_bfloat16())
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=lower):
            yield

    def _clip_grad(self) -> None:
        """Clip the gradients; of a sharded model by the norm of all shards (torch's function sees this rank's only).

        Raises:
            ValueError: of a sharded model, for options of ``clip_grad`` that are not known here.
            RuntimeError: if the norm is not finite, where ``error_if_nonfinite`` asks for it.
        """
        if self._sharded is None or self.clip_func is not torch.nn.utils.clip_grad_norm_:
            super()._clip_grad()  # values are clipped one by one, wherever they lie
            return
        options = dict(self.clip_grad_kwargs)
        options.pop("foreach", None)  # changes the speed only
        strict = options.pop("error_if_nonfinite", False)
        if unknown := options.keys() - {"max_norm", "norm_type"}:
            raise ValueError(f"clip_grad of a sharded model does not know {', '.join(sorted(unknown))}")
        norm = self._sharded.clip_grad_norm_(**options)
        if strict and not torch.isfinite(norm):
            raise RuntimeError(f"the norm of the gradients is {float(norm)}, and clip_grad.error_if_nonfinite is set")
        self.message_hub.update_scalar(f"train/{self.grad_name}", float(norm))
