"""A decoder that is too large for one GPU, in shards over many."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.dist import is_distributed
from mmengine.model import is_model_wrapper
from torch import nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, FullyShardedDataParallel
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from synthcap_mm.errors import UserError
from synthcap_mm.registry import STRATEGIES


@STRATEGIES.register_module()
class DecoderFSDPStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy``, for captioners; with ``runner_type='FlexibleRunner'``.

    What it does on top:

    - each block of the decoder is a unit of its own; embeddings, which the output shares, and
      necks are the root's. Memory and encoder are no part of the module tree, and whole on every rank.
    - ranks write captions in step. A block's weights are gathered from all ranks, so that a rank that
      has finished its captions must go on as long as the others do.
    - a checkpoint is one file of whole tensors, with the names of a captioner that was not sharded: any
      runner loads it.
    - without a GPU it runs on the CPU, with gloo.

    Args:
        model_wrapper: of ``MMFullyShardedDataParallel``. Default ``None``: its defaults.
        state_dict_cfg: only ``'full'``, the default; MMEngine's ``'local'`` leaves files that need the same ranks, and
            cannot be tested.
        **kwargs: of MMEngine's ``FSDPStrategy``.

    Raises:
        UserError: in use, without a process group; if the captioner's decoder has no blocks.
    """

    def __init__(
        self, *, model_wrapper: dict | None = None, state_dict_cfg: Literal["full"] = "full", **kwargs: Any
    ) -> None:
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if not torch.cuda.is_available():
            # Whole weights are on the CPU already: "offloading" them again, torch 2.11 reads memory that it has freed.
            self.state_dict_config = FullStateDictConfig(rank0_only=True, offload_to_cpu=False)
            self.optim_state_dict_config = FullOptimStateDictConfig(rank0_only=True, offload_to_cpu=False)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if is_model_wrapper(model):
            return model
        if not is_distributed():
            raise UserError(
                "DecoderFSDPStrategy shards over processes: start them with bash tools/dist_train.sh CONFIG GPUS, or "
                "train with runner_type='Runner', strategy=None"
            )
        decoder = getattr(model.head, "decoder", None)
        blocks = {type(block) for block in getattr(getattr(decoder, "transformer", None), "h", ())}
        if not blocks:
            raise UserError(f"{type(model.head).__name__} has no decoder.transformer.h, whose blocks are to be sharded")
        wrapper = dict(self.model_wrapper or {})
        wrapper.setdefault("type", "MMFullyShardedDataParallel")
        # A callable, which a config could not hold.
        wrapper["auto_wrap_policy"] = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls=blocks)
        if not torch.cuda.is_available():
            wrapper["device_id"] = "cpu"  # MMEngine's default is the GPU of the local rank
        self.model_wrapper = wrapper
        wrapped = super()._wrap_model(model)
        model.head.synced_gpus = True
        return wrapped

    # MMEngine 0.10 hands torch its optimizer wrapper, and the arguments of loading in the order of torch 2.0.
    def optim_state_dict(self) -> dict[str, Any]:
        """The optimizer's state, whole and by the parameters' names, on rank 0."""
        return FullyShardedDataParallel.optim_state_dict(self.model, self.optim_wrapper.optimizer)

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Share out a state of :meth:`optim_state_dict`, over any number of ranks."""
        optimizer = self.optim_wrapper.optimizer
        shards = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(shards)
