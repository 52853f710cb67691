"""Low-rank adapters of a pretrained decoder, by the library peft."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import nn

from synthcap_mm.options import Part, Positive, Size
from synthcap_mm.requirements import require

#: What peft calls the modules that are adapted: queries, keys, values and output of GPT-2's self-attention.
_ADAPTED = r".*\.attn\.(c_attn|c_proj)"
#: Parts of a decoder that learn as they are, beside the adapters: they are new.
_NEW = ("crossattention", "ln_cross_attn")


class LoRA(TypedDict, total=False):
    """Low-rank adapters: `Hu et al. <https://arxiv.org/abs/2106.09685>`_, W + (alpha / rank) B A; B begins at zero.

    ``rank`` defaults to 32, TOMCap's; ``alpha`` to 32 and ``dropout``, on what the adapters read, to 0 (assumed).
    """

    rank: Size
    alpha: Positive
    dropout: Part


def adapt(decoder: nn.Module, options: LoRA) -> None:
    """Give a GPT-2's self-attention adapters, in place; nothing else of it learns but its cross-attention.

    Args:
        decoder: a ``GPT2LMHeadModel``.
        options: of :class:`LoRA`.

    Raises:
        ImportError: if peft is not installed.
    """
    peft = require("peft", "lora", "GPT2CaptionHead.lora")
    options = {"rank": 32, "alpha": 32, "dropout": 0.0, **options}
    config = peft.LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=_ADAPTED,
        fan_in_fan_out=True,  # transformers' Conv1D keeps its weight transposed
    )
    peft.inject_adapter_in_model(config, decoder)
    for name, weight in decoder.named_parameters():
        if any(f".{part}." in name for part in _NEW):
            weight.requires_grad_(True)


def merge(decoder: nn.Module) -> None:
    """Add the adapters to the weights that they adapt, and take them away; the decoder is a plain GPT-2 again.

    Args:
        decoder: adapted or not.
    """
    adapted: list[tuple[str, Any]] = [(n, m) for n, m in decoder.named_modules() if hasattr(m, "lora_A")]
    for name, layer in adapted:
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(decoder.get_submodule(parent), last, layer.get_base_layer())
