"""An encoder and a tag provider as files of an exported folder, or the reason why they are not in it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import FILE, NewFolder, write_component
from synthcap_mm.files import write_json
from synthcap_mm.models.backbones.open_clip_backbone import OpenCLIPBackbone
from synthcap_mm.models.backbones.open_clip_export import check_description
from synthcap_mm.models.tag_providers.mmdet_tag_provider import find_config, shipped_configs
from synthcap_mm.registry import MODELS, SCOPE

if TYPE_CHECKING:
    from synthcap_mm.inference.inferencer import CaptionInferencer


def plain_settings(settings: Any) -> Any:
    """A config's part as plain json values, with components by their names alone.

    Raises:
        UserError: if a setting is no such value.
    """
    settings = settings.to_dict() if isinstance(settings, ConfigDict) else settings
    try:
        return json.loads(json.dumps(settings), object_hook=_without_scope)
    except TypeError as error:
        raise UserError(f"a setting of the captioner is no plain value, so it cannot be exported: {error}") from error


def _without_scope(settings: dict[str, Any]) -> dict[str, Any]:
    if isinstance(settings.get("type"), str):
        settings["type"] = settings["type"].removeprefix(f"{SCOPE}.")
    return settings


def _save_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True)
    # Of tied weights each name has its own copy, as safetensors wants.
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}, path)


def export_encoder(captioner: CaptionInferencer, folder: NewFolder, left_out: dict[str, str]) -> dict[str, Any] | None:
    """The encoder's config in the folder, with its files if it has any.

    Args:
        captioner: that is exported.
        folder: the export.
        left_out: gets the reason why the encoder is not in the folder.

    Returns:
        The config, or ``None`` if the encoder cannot be built from the folder.
    """
    if captioner.encoder_cfg is None:
        left_out["encoder"] = "The config that was exported named no encoder: give encoder=dict(type=...)"
        return None
    return _export_encoder(captioner, None, captioner.encoder_cfg, folder, left_out)


def export_other_encoders(
    captioner: CaptionInferencer, folder: NewFolder, left_out: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """As :func:`export_encoder`, the configs by name of the encoders that the captioner needs beside its own."""
    found = {}
    for name in sorted(captioner.model.encoders_needed):
        if name not in captioner.other_encoders_cfg:
            left_out["other_encoders"] = (
                f"The config that was exported named no encoder {name!r}: give other_encoders=dict({name}=...)"
            )
        elif written := _export_encoder(captioner, name, captioner.other_encoders_cfg[name], folder, left_out):
            found[name] = written
    return found


def _export_encoder(
    captioner: CaptionInferencer, name: str | None, settings: Any, folder: NewFolder, left_out: dict[str, str]
) -> dict[str, Any] | None:
    settings, part = plain_settings(settings), "encoder" if name is None else f"other_encoders/{name}"

    def write() -> dict[str, Any]:
        if MODELS.get(settings["type"]) is OpenCLIPBackbone:
            return export_open_clip(captioner.model.backbone_of(name), settings, folder.path, part)
        return write_component(settings, part, folder)

    return _or_left_out(write, part, settings, folder, left_out)


def _or_left_out(
    write: Callable[[], dict[str, Any]],
    part: str,
    settings: Mapping[str, Any],
    folder: NewFolder,
    left_out: dict[str, str],
) -> dict[str, Any] | None:
    """What a part is written as; ``None``, with the reason in ``left_out``, where it cannot be exported."""
    try:
        return write()
    except (UserError, OSError) as error:
        shutil.rmtree(folder.path / part, ignore_errors=True)
        option, _, name = part.partition("/")
        given = f"dict(type={settings['type']!r}, ...)"
        left_out[option] = (
            f"The {f'encoder {name!r}' if name else part.replace('_', ' ')} ({settings['type']}) is not in the folder: "
            f"{error}. Fix this and export again, or give {option}={f'dict({name}={given})' if name else given} in "
            "Python"
        )
        return None


def export_open_clip(
    backbone: OpenCLIPBackbone, settings: Mapping[str, Any], folder: Path, part: str = "encoder"
) -> dict[str, Any]:
    """Write an encoder's weights, description and vocabulary.

    Args:
        backbone: the encoder.
        settings: its config.
        folder: the export.
        part: folder in it. Default ``'encoder'``.

    Returns:
        Its config in the export.

    Raises:
        UserError: if parts of it come from elsewhere than open_clip.
    """
    tokenizer, description = settings.get("tokenizer"), plain_settings(backbone.described())
    if tokenizer is not None and Path(tokenizer).is_dir():
        raise UserError(f"its tokenizer {Path(tokenizer).name} is a folder of Hugging Face's")
    check_description(description, "its config")
    place = folder / part
    _save_weights(backbone.weights(), place / "weights.safetensors")
    write_json(place / "model.json", description)
    written = {
        "type": "OpenCLIPBackbone",
        "model_name": re.sub(r"[^\w.-]+", "-", backbone.name.split("/")[0]),
        "pretrained": {FILE: f"{part}/weights.safetensors"},
        "model_config": {FILE: f"{part}/model.json"},
        "quick_gelu": backbone.activation == "quick_gelu",
        "precision": settings.get("precision", "fp32"),
    }
    if tokenizer is not None:
        shutil.copyfile(tokenizer, place / "bpe.txt.gz")
        written["tokenizer"] = {FILE: f"{part}/bpe.txt.gz"}
    return written


def export_tag_provider(
    captioner: CaptionInferencer, folder: NewFolder, left_out: dict[str, str]
) -> dict[str, Any] | None:
    """The tag provider's config in the folder, with a detector's weights and a vocabulary's names.

    Args:
        captioner: that is exported.
        folder: the export.
        left_out: gets the reason why the provider is not in the folder.

    Returns:
        The config, or ``None`` if the captioner needs no provider, or it cannot be built from the folder.
    """
    if captioner.tag_provider_cfg is None or not captioner.uses_tags:
        return None
    settings = plain_settings(captioner.tag_provider_cfg)
    if getattr(MODELS.get(settings["type"]), "__name__", "") == "MMDetTagProvider":
        return export_detector(settings, folder.path)
    if settings.get("encoder") in (None, plain_settings(captioner.encoder_cfg)):
        settings.pop("encoder", None)  # the captioner's, which its reader fills in
    return _or_left_out(
        lambda: write_component(settings, "tag_provider", folder), "tag_provider", settings, folder, left_out
    )


def export_detector(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the weights of an mmdet detector whose config mmdet ships.

    Args:
        settings: config of the tag provider.
        folder: the export.

    Returns:
        Its config in the export.

    Raises:
        UserError: if the detector's config is a file.
    """
    path, name = find_config(settings["config"])
    if name not in shipped_configs():
        raise UserError(
            f"the detector's config {path} is a file of Python, which an export does not hold: name one that mmdet "
            "ships (such as 'yolox/yolox_nano_8xb8-300e_coco'), or export without tags"
        )
    provider = MODELS.build(settings)
    _save_weights(provider.weights(), folder / "detector" / "weights.safetensors")
    settings.pop("device", None)
    checkpoint = {FILE: "detector/weights.safetensors"}
    return {**settings, "config": name, "checkpoint": checkpoint, "classes": list(provider.classes)}
