"""Writing a captioner into one folder of data, which needs nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log

from synthcap_mm.checkpoint_files import read_checkpoint
from synthcap_mm.files import file_sha256, write_json
from synthcap_mm.inference.export_folder import (
    CONFIG,
    EXPORT_SCHEMA,
    FILE,
    MANIFEST,
    MEMORY,
    TEXTS,
    TOKENIZER,
    WEIGHTS,
    ExportError,
    read_export,
)  # fmt: skip
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.model_card import model_card
from synthcap_mm.models.backbones.open_clip_backbone import OpenCLIPBackbone
from synthcap_mm.registry import MODELS
from synthcap_mm.stores import Store
from synthcap_mm.structures import CaptionSample
from synthcap_mm.version import __version__

#: How a memory may be kept.
PRECISIONS = ("fp16", "int8")
_QUERIES = 64  # images whose attention over the whole memory is held at once


def export_captioner(
    config: str | dict,
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    memory: str = "fp16",
    memory_rows: int | None = None,
    include_encoder: bool = False,
    samples: int = 200,
) -> dict[str, Any]:
    """Write a captioner into a folder that :meth:`CaptionInferencer.from_pretrained` reads.

    The folder appears whole or not at all. It is read back before that, and its
    captions are compared with the captioner's own.

    Args:
        config: path, name or content of the config.
        checkpoint: of ``tools/train.py``.
        out: folder to make.
        memory: ``'fp16'``, as stores have it: the same captions; or ``'int8'``, with a scale a row: half of
            it. Default ``'fp16'``.
        memory_rows: keep only so many captions of the memory, those that carry most weight for the
            pictures of the store that it was trained on. Default ``None``: all.
        include_encoder: put the weights of an encoder that open_clip downloads into the
            folder too. Default ``False``. (An encoder from a file is always in it; one that ships with
            the package never.)
        samples: pictures that were held out, whose captions are compared. Default 200.

    Returns:
        What ``export.json`` says.

    Raises:
        ExportError: if there is something at ``out``, or a part of the captioner cannot be
            exported; the message says what to do.
        ValueError: if an argument is out of its range.
    """
    out = Path(out)
    if memory not in PRECISIONS:
        raise ValueError(f"memory is one of {', '.join(PRECISIONS)}, not {memory!r}")
    if memory_rows is not None and memory_rows < 1:
        raise ValueError(f"memory_rows must be at least 1, got {memory_rows}")
    if out.exists():
        raise ExportError(f"there is something at {out} already: give another folder, or delete it")
    captioner = CaptionInferencer(config, checkpoint)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        manifest = _Writer(captioner, folder, str(checkpoint)).write(memory, memory_rows, include_encoder, samples)
        _share(folder)
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    size = sum(record["bytes"] for record in manifest["files"].values())
    print_log(f"export: {out}, {size / 1e6:.1f} MB; {manifest['compared']['told']}", logger="current")
    return manifest


def _share(folder: Path) -> None:
    """Give a folder and its files the rights of new ones: mkdtemp and safetensors make them for their owner only."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~umask)


class _Writer:
    """Writes one folder."""

    def __init__(self, captioner: CaptionInferencer, folder: Path, checkpoint: str) -> None:
        self.captioner, self.model, self.folder = captioner, captioner.model, folder
        self.checkpoint = checkpoint
        self.left_out: dict[str, str] = {}
        settings = captioner.cfg.model
        self.store = None if settings.get("store") is None else Store.open(settings.store)

    def write(self, memory: str, rows: int | None, include_encoder: bool, samples: int) -> dict[str, Any]:
        from safetensors.torch import save_file

        encoder = self._encoder(include_encoder)
        config = {"model": self._model_config(), "encoder": encoder, "tag_provider": self._tag_provider(encoder)}
        shutil.copyfile(self.model.data_preprocessor.tokenizer.path, self.folder / TOKENIZER)
        queries, held_out = self._pictures(samples)
        kept = self._memory(memory, rows, queries)
        state = _without_ties(self.model.state_dict())
        if kept is not None:
            for name in state:
                if name.endswith("memory_sha256"):
                    state[name] = torch.tensor(list(bytes.fromhex(kept["sha256"])), dtype=torch.uint8)
        save_file(state, self.folder / WEIGHTS)
        write_json(self.folder / CONFIG, config)
        manifest: dict[str, Any] = {
            "schema_version": EXPORT_SCHEMA,
            "synthcap_mm": __version__,
            "config_name": self.captioner.cfg.get("config_name"),
            "checkpoint": {"file": Path(self.checkpoint).name, "sha256": file_sha256(self.checkpoint)},
            "epoch": read_checkpoint(self.checkpoint).get("meta", {}).get("epoch"),
            "encoder": self.model.encoder,
            "memory": kept,
            "left_out": self.left_out,
            "compared": {},
            "files": {},
        }
        self._record(manifest)
        manifest["compared"] = self._compare(held_out)
        (self.folder / "README.md").write_text(model_card(manifest, config, self.store), encoding="utf-8")
        self._record(manifest)
        return manifest

    def _record(self, manifest: dict[str, Any]) -> None:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        manifest["files"] = {
            path.relative_to(self.folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        }
        write_json(self.folder / MANIFEST, manifest)

    # ---- the config, as data
    def _model_config(self) -> dict[str, Any]:
        settings = _plain(self.captioner.cfg.model)
        for name in ("store", "backbone", "init_cfg"):
            settings.pop(name, None)
        settings["data_preprocessor"].pop("tokenizer", None)
        for neck in settings["necks"]:
            neck.pop("memory", None)
        head = settings["head"]
        if head.pop("pretrained", None) is not None:  # its weights are the checkpoint's now; its sizes are its own
            config = self.model.head.decoder.config
            head.update(width=config.n_embd, layers=config.n_layer, heads=config.n_head, positions=config.n_positions)
        return settings

    def _encoder(self, include: bool) -> dict[str, Any] | None:
        settings = self.captioner._encoder_cfg
        if settings is None:
            self.left_out["encoder"] = "The config that was exported named no encoder: give encoder=dict(type=...)"
            return None
        settings = _plain(settings)
        kind = MODELS.get(settings["type"])
        if issubclass(kind, OpenCLIPBackbone):
            backbone = self.model.backbone
            if kind is not OpenCLIPBackbone and not _own_paths(settings):
                return settings  # ships with the package
            if include or _own_paths(settings):
                return self._open_clip(backbone, settings)
            self.left_out["encoder weights"] = (
                f"{backbone.name} is downloaded by open_clip when it is first used; export with --include-encoder to "
                "have its weights in the folder"
            )
            return settings
        if _own_paths(settings) or not kind.__module__.startswith("synthcap_mm."):
            self.left_out["encoder"] = (
                f"The encoder is a component of your own ({settings['type']}): import its module, and give "
                f"encoder=dict(type={settings['type']!r}, ...)"
            )
            return None
        return settings

    def _open_clip(self, backbone: OpenCLIPBackbone, settings: dict[str, Any]) -> dict[str, Any]:
        """The encoder's weights, config and tokenizer as files of the folder."""
        from safetensors.torch import save_file

        place = self.folder / "encoder"
        place.mkdir()
        save_file(_without_ties(backbone.weights()), place / "weights.safetensors")
        write_json(place / "model.json", backbone.described())
        written = {
            "type": "OpenCLIPBackbone",
            "model_name": backbone.name.split("/")[0],
            "pretrained": {FILE: "encoder/weights.safetensors"},
            "model_config": {FILE: "encoder/model.json"},
            "quick_gelu": backbone.activation == "quick_gelu",
            "precision": settings.get("precision", "fp32"),
        }
        tokenizer = settings.get("tokenizer")
        if tokenizer is not None:
            source = Path(tokenizer)
            if source.is_dir():
                raise ExportError(
                    f"the encoder's tokenizer {source} is a folder of Hugging Face's, which is not exported: give "
                    "encoder=... to from_pretrained"
                )
            shutil.copyfile(source, place / "bpe.txt.gz")
            written["tokenizer"] = {FILE: "encoder/bpe.txt.gz"}
        return written

    def _tag_provider(self, exported: dict[str, Any] | None) -> dict[str, Any] | None:
        settings = self.captioner._tag_provider_cfg
        if settings is None or not self.captioner.uses_tags:
            return None
        settings = _plain(settings)
        kind = MODELS.get(settings["type"])
        if settings["type"].endswith("MMDetTagProvider"):
            return self._detector(settings)
        if kind.__name__ == "CLIPTagProvider":
            if exported is not None and settings["encoder"] == _plain(self.captioner._encoder_cfg):
                names = MODELS.build({**settings, "encoder": self.model.backbone}).names
                return {**settings, "vocabulary": names, "encoder": exported}
        elif kind.__module__.startswith("synthcap_mm.") and not _own_paths(settings):
            return settings
        self.left_out["tag_provider"] = (
            f"The tag provider ({settings['type']}) is not in the folder, since it is a component of your own, or has "
            f"an encoder or files of its own: give tag_provider=dict(type={settings['type']!r}, ...)"
        )
        return None

    def _detector(self, settings: dict[str, Any]) -> dict[str, Any]:
        from safetensors.torch import save_file

        if Path(settings["config"]).is_file():
            raise ExportError(
                f"the detector's config {settings['config']} is a file of Python, which an export does not hold: name "
                "one that mmdet ships (such as 'yolox/yolox_nano_8xb8-300e_coco'), or export without tags"
            )
        provider = MODELS.build(settings)
        place = self.folder / "detector"
        place.mkdir()
        save_file(_without_ties(provider.weights()), place / "weights.safetensors")
        return {**settings, "checkpoint": {FILE: "detector/weights.safetensors"}, "classes": list(provider.classes)}

    # ---- pictures to choose and to compare by
    def _pictures(self, samples: int) -> tuple[np.ndarray | None, list[CaptionSample]]:
        """Features of pictures that were trained on, to choose the memory by; samples held out, to compare by."""
        if self.store is None or not self.store.has("images") or not self.store.has("pairs/default"):
            return None, []
        pairs = self.store.pairs("default")
        captions, images = pairs.numbers("caption"), pairs.numbers("image")
        flagged = self.store.images.is_set("flags")
        heldout = np.isin(captions, self.store.caption_rows("heldout")) & ~flagged[images]
        training = np.unique(images[~heldout & ~flagged[images]])
        spread = np.linspace(0, len(training) - 1, min(len(training), 5000)).astype(int)
        queries = self.store.images.features(training[spread]).astype(np.float32) if len(training) else None
        rows = np.unique(images[heldout])[:samples]
        found = [
            CaptionSample(
                int(row), self.store.images.value("key", int(row)), "real",
                feat=torch.from_numpy(self.store.images.feature(int(row)).astype(np.float32)),
                tags=self.store.tags(int(row)),
            )
            for row in rows
        ]  # fmt: skip
        return queries, found

    # ---- the memory
    def _memory(self, precision: str, rows: int | None, queries: np.ndarray | None) -> dict[str, Any] | None:
        from safetensors.torch import save_file

        neck = self.captioner.memory_neck
        if neck is None:
            return None
        neck.load_memory()
        feats = neck.memory.cpu()
        total = len(feats)
        texts = [self.captioner.memory_text(row) for row in range(total)]
        if rows is not None and rows < total:
            if queries is None:
                raise ExportError(
                    "memory_rows chooses by the pictures of the store that was trained on, and it has none: export "
                    "the whole memory"
                )
            weights = sum_of_weights(torch.from_numpy(queries), feats, neck.temperature)
            chosen = weights.topk(rows).indices.sort().values
            feats, texts = feats[chosen], [texts[i] for i in chosen.tolist()]
        digest = bytes(neck.memory_sha256.tolist()).hex()
        tensors = {"features": feats.half()}
        if precision == "int8":
            scales = feats.abs().amax(dim=1).clamp_min(1e-12) / 127
            tensors = {"features": (feats / scales[:, None]).round().to(torch.int8), "scales": scales}
        save_file({name: value.contiguous() for name, value in tensors.items()}, self.folder / MEMORY)
        (self.folder / TEXTS).write_text("".join(f"{' '.join(text.split())}\n" for text in texts), encoding="utf-8")
        if precision != "fp16" or len(feats) != total:
            digest = hashlib.sha256((self.folder / MEMORY).read_bytes()).hexdigest()
        return {"rows": len(feats), "of": total, "precision": precision, "sha256": digest}

    # ---- what it lost
    def _compare(self, held_out: Sequence[CaptionSample]) -> dict[str, Any]:
        """Read the folder back, and caption the same with it."""
        read_export(self.folder)
        if not held_out:
            return {"pictures": 0, "told": "no pictures were held out, so no captions were compared"}
        # Their features suffice: the exported encoder is compared by its fingerprint when it is built.
        device = self.captioner.device
        again = CaptionInferencer(self.folder, device=device, encoder=self.captioner._encoder_cfg)
        own, back = ([p["caption"] for p in c.stream(held_out)] for c in (self.captioner, again))
        result: dict[str, Any] = {"pictures": len(own), "same_captions": sum(a == b for a, b in zip(own, back))}
        told = f"{result['same_captions']} of {len(own)} held-out pictures have the same caption as before"
        one, other = self.captioner.memory_neck, again.memory_neck
        if one is not None:
            feats = torch.stack([s.feat for s in held_out])
            feats = feats.to(one.memory.device)
            cosines = torch.nn.functional.cosine_similarity(one.project(feats), other.project(feats))
            result |= {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
            told += f"; cosine of their projections {result['mean_cosine']:.6f} (least {result['least_cosine']:.6f})"
        if "encoder" not in self.left_out:
            CaptionInferencer(self.folder, device=device).model.backbone  # noqa: B018 - refuses another encoder
        return {**result, "told": told}


def sum_of_weights(queries: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """How much weight each row of a memory carries for some pictures, in all.

    Args:
        queries: ``(Q, D)`` features.
        memory: ``(M, D)``.
        temperature: of the projection.

    Returns:
        ``(M,)``; the sum is Q.
    """
    total = torch.zeros(len(memory))
    for part in queries.split(_QUERIES):
        total += (part @ memory.T / temperature).softmax(dim=1).sum(0)
    return total


def _plain(settings: Any) -> Any:
    """A config's part as plain json values."""
    settings = settings.to_dict() if isinstance(settings, ConfigDict) else settings
    try:
        return json.loads(json.dumps(settings))
    except TypeError as error:
        raise ExportError(f"a setting of the captioner is no plain value, so it cannot be exported: {error}") from error


def _own_paths(settings: dict[str, Any]) -> list[str]:
    """Settings that name files or folders of this machine."""
    return [
        name for name, value in settings.items()
        if name != "type" and isinstance(value, str) and value and Path(value).exists()
    ]  # fmt: skip


def _without_ties(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU; of those that are one and the same (tied weights) the first name only."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept = {}
    for name, value in state.items():
        place = (value.data_ptr(), tuple(value.shape))
        if place in seen and value.numel():
            continue
        seen.add(place)
        kept[name] = value.detach().cpu().contiguous().clone()
    return kept
