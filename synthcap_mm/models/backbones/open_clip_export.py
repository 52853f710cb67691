"""What of an open_clip model may stand in an export: sizes and names of open_clip's own, nothing that is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import is_number, refused

_FLAG, _RATE, _NAME = "flag", "rate", "name"
# Options of open_clip 3's towers by kind: a flag, a rate, one of open_clip's own words, or the largest number.
# What names something that open_clip or timm or transformers would look for elsewhere is not among them.
_VISION: dict[str, Any] = {
    "layers": 256, "width": 16_384, "head_width": 1024, "patch_size": 256, "image_size": 4096, "heads": 1024,
    "mlp_ratio": 64, "ls_init_value": _RATE, "patch_dropout": _RATE, "attentional_pool": _FLAG, "attn_pooler_queries":
    4096, "attn_pooler_heads": 1024, "no_ln_pre": _FLAG, "pos_embed_type": _NAME, "final_ln_after_pool": _FLAG,
    "pool_type": _NAME, "output_tokens": _FLAG, "embed_cls": _FLAG, "timm_model_name": _NAME, "timm_pool": _NAME,
    "timm_proj": _NAME, "timm_proj_bias": _FLAG, "timm_drop": _RATE, "timm_drop_path": _RATE, "timm_model_pretrained":
    _FLAG,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "context_length": 65_536, "vocab_size": 4_000_000, "width": 16_384, "heads": 1024, "layers": 256, "mlp_ratio": 64,
    "ls_init_value": _RATE, "embed_cls": _FLAG, "pad_id": 4_000_000, "eos_id": 4_000_000, "no_causal_mask": _FLAG,
    "final_ln_after_pool": _FLAG, "pool_type": _NAME, "proj_type": _NAME, "proj_bias": _FLAG, "output_tokens": _FLAG,
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "embed_dim": 65_536, "quick_gelu": _FLAG, "vision_cfg": _VISION, "text_cfg": _TEXT, "custom_text": _FLAG,
    "init_logit_scale": _RATE, "init_logit_bias": _RATE, "nonscalar_logit_scale": _FLAG,
}  # fmt: skip
_PREPROCESSING = {
    "mean": _RATE, "std": _RATE, "interpolation": _NAME, "resize_mode": _NAME, "fill_color": 255, "size": 4096,
}  # fmt: skip
_DESCRIBED = {"model_cfg": _MODEL, "preprocess_cfg": _PREPROCESSING}


def check_description(value: Any, where: str) -> None:
    """Refuse a model's description in which something else stands than sizes and open_clip's own words.

    Args:
        value: with ``model_cfg`` and ``preprocess_cfg``, as :meth:`OpenCLIPBackbone.described` makes it.
        where: its file, for messages.

    Raises:
        UserError: naming the field.
    """
    _check(value, _DESCRIBED, where)
    towers = value.get("model_cfg") or {}
    if not isinstance(towers.get("vision_cfg"), dict) or not isinstance(towers.get("text_cfg"), dict):
        raise UserError(f"{where}: model_cfg needs vision_cfg and text_cfg")
    timm_name = towers["vision_cfg"].get("timm_model_name")
    if timm_name is not None:
        import timm

        if timm_name not in timm.list_models():
            raise refused(f"{where}: model_cfg.vision_cfg.timm_model_name", timm_name, "a model that timm has")


def _check(value: Any, kinds: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise refused(where, value, "an object")
    for name, one in value.items():
        if name not in kinds:
            raise refused(f"{where}: {name}", one)
        if isinstance(kinds[name], dict):
            _check(one, kinds[name], f"{where}: {name}")
        elif not all(_fits(each, kinds[name]) for each in (one if isinstance(one, list) and len(one) < 100 else [one])):
            raise refused(f"{where}: {name}", one, "a size or a word that open_clip knows")


def _fits(value: Any, kind: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if kind == _NAME:
        return isinstance(value, str) and re.fullmatch(r"[a-z0-9_.]{0,100}", value) is not None
    return kind != _FLAG and is_number(value, -10 if kind == _RATE else 0, 10 if kind == _RATE else kind)
