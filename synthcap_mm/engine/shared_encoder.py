"""The store's encoders, which a config names once, where training and tests need them."""

from __future__ import annotations

from mmengine.config import Config

from synthcap_mm.missing_inputs import datasets_in
from synthcap_mm.registry import filled_in


def share_encoder(cfg: Config) -> None:
    """Fill in ``cfg.synthesis.encoder`` where no other is named.

    In ``tags`` of datasets, and in a captioner that re-ranks, or that a dataset gives photos instead of features; the
    latter gets ``cfg.synthesis.other_encoders`` too.

    Args:
        cfg: the config; changed.
    """
    encoder, others = (cfg.get("synthesis", {}).get(name) for name in ("encoder", "other_encoders"))
    model = cfg.get("model", {})
    encodes = model.get("rerank")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in datasets_in((cfg.get(name) or {}).get("dataset") or {}):
            encodes = encodes or dataset.get("photos")
            if dataset.get("tags"):
                dataset["tags"] = filled_in(dataset["tags"], encoder=encoder)
    if encodes and not model.get("backbone"):
        model["backbone"] = encoder
    if encodes and others and not model.get("other_backbones"):
        model["other_backbones"] = others
