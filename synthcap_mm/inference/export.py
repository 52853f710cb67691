"""Writing a captioner into one folder of data, which needs nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from synthcap_mm.datasets.features import other_features
from synthcap_mm.errors import UserError
from synthcap_mm.exportable import NewFolder, write_component
from synthcap_mm.files import file_sha256, new_folder, write_json
from synthcap_mm.inference.export_folder import (
    CARD,
    CONFIG,
    EXPORT_SCHEMA,
    MANIFEST,
    MEMORY,
    TEXTS,
    TOKENIZER,
    WEIGHTS,
    memory_tensor,
)
from synthcap_mm.inference.export_parts import (
    export_encoder,
    export_other_encoders,
    export_tag_provider,
    plain_settings,
)
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.model_card import model_card
from synthcap_mm.store import Store
from synthcap_mm.structures import CaptionSample
from synthcap_mm.version import __version__
from synthcap_mm.weights_files import read_checkpoint


def export_captioner(
    config: str | dict,
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    samples: int = 200,
) -> dict[str, Any]:
    """Write a captioner into a folder that :meth:`CaptionInferencer.from_pretrained` reads.

    The folder appears whole or not at all. Before that it is read back, and its
    captions are compared with the captioner's own.

    Args:
        config: path, name or content of the config.
        checkpoint: of ``tools/train.py``.
        out: folder to make.
        samples: held-out images whose captions are compared. Default 200.

    Returns:
        The content of ``export.json``.

    Raises:
        UserError: if ``out`` exists, or a part of the captioner cannot be exported; the message says what to do.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: give another folder, or delete it")
    captioner = CaptionInferencer(config, checkpoint)
    store = Store.open(captioner.cfg.model.store) if captioner.cfg.model.get("store") else None
    with new_folder(out) as folder:
        config, left_out = _write_parts(captioner, folder)
        manifest: dict[str, Any] = {
            "schema_version": EXPORT_SCHEMA,
            "synthcap_mm": __version__,
            "config_name": captioner.cfg.get("config_name"),
            "checkpoint": {"file": Path(checkpoint).name, "sha256": file_sha256(checkpoint)},
            "epoch": (read_checkpoint(checkpoint).get("meta") or {}).get("epoch"),
            "encoder": captioner.model.encoder,
            "other_encoders": _other_encoders(captioner),
            "memory": _write_memory(captioner, folder),
            "left_out": left_out,
            "compared": {},
        }
        _write_manifest(folder, manifest)
        manifest["compared"] = _compare(captioner, folder, _held_out(store, samples), left_out)
        captions = None if store is None else len(store.captions)
        card = model_card(manifest, config, captioner.cfg, captions, out.name)
        (folder / CARD).write_text(card, encoding="utf-8")
        _write_manifest(folder, manifest)
    size = sum(record["bytes"] for record in manifest["files"].values())
    print_log(f"export: {out}, {size / 1e6:.1f} MB; {manifest['compared']['summary']}", logger="current")
    return manifest


def _write_parts(captioner: CaptionInferencer, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Write config, tokenizer and weights; returns the config, and why parts are not in the folder."""
    from safetensors.torch import save_model

    left_out: dict[str, str] = {}
    parts = NewFolder(folder)
    encoder = export_encoder(captioner, parts, left_out)
    others = export_other_encoders(captioner, parts, left_out)
    tag_provider = export_tag_provider(captioner, parts, left_out)
    for why in left_out.values():
        print_log(why, logger="current", level=30)
    model = write_component(_model_settings(captioner), "model", parts)
    config = {"model": model, "encoder": encoder, "other_encoders": others, "tag_provider": tag_provider}
    write_json(folder / CONFIG, config)
    shutil.copyfile(captioner.model.data_preprocessor.tokenizer.path, folder / TOKENIZER)
    save_model(captioner.model, str(folder / WEIGHTS))
    return config, left_out


def _model_settings(captioner: CaptionInferencer) -> dict[str, Any]:
    """The captioner's config as data, without what the folder has as files."""
    settings = plain_settings(captioner.cfg.model)
    for name in ("store", "backbone", "other_backbones", "init_cfg"):
        settings.pop(name, None)
    settings["data_preprocessor"].pop("tokenizer", None)
    settings["necks"] = plain_settings(captioner.model.neck_settings)
    for neck in settings["necks"].values():
        # What was read of stores is among the weights, or is the memory.
        for name in ("memory", "store", "start", "target", "pairs", "block_size"):
            neck.pop(name, None)
    head = settings["head"]
    if head.pop("pretrained", None) is not None:  # its weights are in the checkpoint now, its sizes in the model
        config = captioner.model.head.decoder.config
        head.update(width=config.n_embd, layers=config.n_layer, heads=config.n_head, positions=config.n_positions)
    return settings


def _write_memory(captioner: CaptionInferencer, folder: Path) -> dict[str, Any] | None:
    """Write features and captions of the memory, if there is one.

    Raises:
        UserError: if necks remember different captions.
    """
    from safetensors.torch import save_file

    if len({(neck.memory_store, neck.split) for neck in captioner.model.remembering}) > 1:
        raise UserError("the captioner's necks remember different captions (memory, split); an export holds one memory")
    memory = captioner.model.memory
    if memory is None:
        return None
    names = [None, *(name for name in sorted(captioner.model.encoders_needed) if name in memory.other_encoders)]
    features = {memory_tensor(name): memory.features_of(name).half().cpu().contiguous() for name in names}
    save_file(features, folder / MEMORY)
    texts = (" ".join(memory.text(place).split()) for place in range(len(memory)))
    (folder / TEXTS).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return {"rows": len(memory), "sha256": memory.digest}


def _other_encoders(captioner: CaptionInferencer) -> dict[str, dict[str, Any]]:
    """Fingerprints of the encoders that the captioner needs beside its own, by name."""
    known = captioner.model.other_encoders
    return {name: known[name] for name in sorted(captioner.model.encoders_needed) if name in known}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, CARD))
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in files
    }
    write_json(folder / MANIFEST, manifest)


def _held_out(store: Store | None, count: int) -> list[CaptionSample]:
    """The first images of held-out captions, as samples with feature and tags."""
    if store is None or not store.has("images") or not store.has("pairs/default"):
        return []
    pairs = store.pairs("default")
    captions, images = pairs.numbers("caption"), pairs.numbers("image")
    usable = ~store.is_flagged[images]
    rows = np.unique(images[usable & np.isin(captions, store.caption_rows("heldout"))])[:count]
    return [
        CaptionSample(
            int(row),
            store.images.value("key", int(row)),
            "real",
            feat=torch.from_numpy(store.images.feature(int(row)).astype(np.float32)),
            other_feats=other_features(store, "image", int(row)),
            tags=store.tags(int(row)),
        )
        for row in rows
    ]


def _compare(
    captioner: CaptionInferencer, folder: Path, samples: Sequence[CaptionSample], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Read the folder back, and caption the same images with it."""
    own = {part: getattr(captioner, f"{part}_cfg") for part in left_out}
    again = CaptionInferencer(folder, device=captioner.device, **own)
    if "encoder" not in left_out:
        _ = again.model.backbone if left_out else again.reader  # building the encoder compares its fingerprint
    if not samples:
        return {"images": 0, "summary": "no images were held out, so no captions were compared"}
    before, after = ([_caption_of(found) for found in one.stream(samples)] for one in (captioner, again))
    same = sum(a == b for a, b in zip(before, after))
    summary = f"{same} of {len(before)} held-out images have the same caption as before"
    return {"images": len(before), "same_captions": same, "summary": summary}


def _caption_of(found: dict[str, Any]) -> str:
    if "error" in found:
        raise UserError(f"a captioner that cannot caption is not exported: {found['image']}: {found['error']}")
    return found["caption"]
