"""An exported captioner: the files of its folder, and how they are read without executing anything."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import Parts, read_component, refused
from synthcap_mm.files import decode, file_sha256, read_json
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS
from synthcap_mm.store.fingerprint import checked_fingerprint, checked_fingerprints
from synthcap_mm.weights_files import is_safetensors, read_checkpoint, state_dict_of

#: Version of the folder's format; others are refused.
EXPORT_SCHEMA = 4
MANIFEST, CONFIG, WEIGHTS, MEMORY, TEXTS, TOKENIZER, CARD = (
    "export.json", "config.json", "model.safetensors", "memory.safetensors", "memory.txt", "tokenizer.json",
    "README.md",
)  # fmt: skip
#: Kinds of files that hold data and nothing that is executed when they are read.
DATA_SUFFIXES = (".safetensors", ".json", ".txt", ".gz")
_FIELDS = {
    "schema_version": int, "synthcap_mm": str, "config_name": (str, type(None)), "checkpoint": dict,
    "epoch": (int, type(None)), "encoder": (dict, type(None)), "memory": (dict, type(None)), "left_out": dict,
    "files": dict, "compared": dict, "other_encoders": dict,
}  # fmt: skip


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by ``tools/export.py``."""
    return Path(folder, MANIFEST).is_file()


class Export:
    """An exported folder, open for reading; see :func:`read_export`.

    Attributes:
        folder: the folder.
        manifest: what ``export.json`` says.
        model: config of the captioner, with the folder's tokenizer; its memory is still to be bound.
        encoder: config of the backbone, or ``None`` if it is not in the folder.
        other_encoders: configs of those beside it that are in the folder, by name.
        tag_provider: config of the tag provider, or ``None``.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        config, where = read_json(self.file(CONFIG, MANIFEST)), str(folder / CONFIG)
        if not isinstance(config, dict) or {*config} != {"model", "encoder", "other_encoders", "tag_provider"}:
            raise UserError(f"{where} has the fields model, encoder, other_encoders and tag_provider in an export")
        self.model = read_component(config["model"], f"{where}: model", self)
        data = self.model.get("data_preprocessor")
        if not isinstance(data, dict):
            raise refused(f"{where}: model.data_preprocessor", data, "a component")
        data["tokenizer"] = str(self.file(TOKENIZER, MANIFEST))
        self.encoder, self.tag_provider = (
            None if config[name] is None else read_component(config[name], f"{where}: {name}", self)
            for name in ("encoder", "tag_provider")
        )
        self.other_encoders = Parts().read(config["other_encoders"], f"{where}: other_encoders", self)

    def file(self, name: Any, where: str) -> Path:
        """The path of a file that ``export.json`` lists.

        Args:
            name: of the file.
            where: who asks, for the message.

        Raises:
            UserError: if it lists no such file.
        """
        if not isinstance(name, str) or name not in self.manifest["files"]:
            raise UserError(f"{where} names the file {name!r}, which {self.folder / MANIFEST} does not list")
        return self.folder / name

    def build(self, settings: dict[str, Any]) -> torch.nn.Module:
        """The captioner with its weights and memory.

        Args:
            settings: :attr:`model`, with its backbones.

        Raises:
            UserError: if the folder's parts do not fit each other.
        """
        with self.faults_explained():
            weights = self._weights(settings)
            model = MODELS.build(settings)
            found = model.load_state_dict(weights, strict=False)
            if found.unexpected_keys or {*found.missing_keys} - _tied(model, weights):
                raise UserError(f"{self.folder / WEIGHTS} does not fit {CONFIG}: {found}")
            model.encoder = checked_fingerprint(self.manifest["encoder"], str(self.folder / MANIFEST))
            model.other_encoders = checked_fingerprints(self.manifest["other_encoders"], str(self.folder / MANIFEST))
            if self.manifest["memory"] is not None:
                model.bind_memory(self._memory())
        return model

    @contextlib.contextmanager
    def faults_explained(self) -> Iterator[None]:
        """Make a :class:`UserError` of what libraries raise where numbers and files of the folder do not go together.

        Raises:
            UserError: naming the folder.
        """
        try:
            yield
        except (UserError, ImportError):
            raise
        except Exception as error:  # torch, open_clip, tokenizers and mmdet have no error in common
            reason = str(error) or type(error).__name__
            raise UserError(f"the parts of the export {self.folder} do not fit each other: {reason}") from error

    def _weights(self, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The weights, once it is known that the model of ``settings`` is no larger than they are."""
        path = self.file(WEIGHTS, MANIFEST)
        if not is_safetensors(path):
            raise UserError(f"{path} is not a safetensors file")
        weights = state_dict_of(read_checkpoint(path), path)
        with torch.device("meta"):  # takes no memory
            parameters = MODELS.build({name: one for name, one in settings.items() if name != "backbone"}).parameters()
        if sum(one.numel() for one in parameters) > sum(one.numel() for one in weights.values()):
            raise UserError(f"{path} does not fit {CONFIG}: the model has more weights")
        return weights

    def _memory(self) -> CaptionMemory:
        stated, path = self.manifest["memory"], self.file(MEMORY, MANIFEST)
        tensors = read_checkpoint(path) if is_safetensors(path) else {}
        features = self._memory_features(tensors, None, self.manifest["encoder"])
        others = {
            name: self._memory_features(tensors, name, encoder)
            for name, encoder in self.manifest["other_encoders"].items()
            if memory_tensor(name) in tensors
        }
        if stated.get("rows") != len(features) or not isinstance(stated.get("sha256"), str):
            raise UserError(f"{self.folder / MANIFEST}: memory.rows and memory.sha256 are not those of {path}")
        return CaptionMemory(
            features,
            self.memory_text,
            self.manifest["encoder"],
            stated["sha256"],
            other_encoders={name: self.manifest["other_encoders"][name] for name in others},
            read_features=others.__getitem__,
        )

    def _memory_features(self, tensors: dict, name: str | None, encoder: dict[str, Any] | None) -> torch.Tensor:
        features, rows = tensors.get(memory_tensor(name)), len(self._texts)
        width = len((encoder or {}).get("text", ())) or (0 if features is None else features.shape[-1])
        if features is None or not features.is_floating_point() or tuple(features.shape) != (rows, width):
            raise UserError(f"{self.folder / MEMORY} is not the features of the {rows} captions in {TEXTS}")
        return features.float()

    @cached_property
    def _texts(self) -> list[str]:
        path = self.file(TEXTS, MANIFEST)
        return decode(path, path.read_bytes()).split("\n")[:-1]

    def memory_text(self, row: int) -> str:
        """The caption at a row of the memory."""
        return self._texts[row]

    def left_out(self, part: str, example: str) -> str:
        """Why a part is not in the folder and what to do, for the end of a message."""
        why = self.manifest["left_out"].get(part)
        return f". {why}" if why else f": give {part}={example}"


def memory_tensor(encoder: str | None) -> str:
    """Name of the memory's features by an encoder in :data:`MEMORY`; ``None``: the captioner's own."""
    return "features" if encoder is None else f"features.{encoder}"


def _tied(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> set[str]:
    """Names of parameters that are one with another, of which the file has one name only."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    return {name for same in names.values() if any(one in weights for one in same) for name in same}


def read_export(folder: str | os.PathLike[str]) -> Export:
    """Open an exported folder, which may come from anybody.

    Nothing is executed, and nothing outside the folder is opened: components say what of them may stand in an export
    (:mod:`synthcap_mm.exportable`), and files are those that ``export.json`` lists, with their sizes and checksums.
    Others in the folder are not looked at.

    Args:
        folder: the folder.

    Raises:
        UserError: if it is no export, is damaged, was made by another version, or holds what may not stand in one.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise UserError(
            f"{folder} is no exported captioner (no {MANIFEST} in it). Make one: "
            "python tools/export.py CONFIG CHECKPOINT FOLDER"
        )
    manifest = _manifest(folder)
    for name, record in manifest["files"].items():
        _check_file(folder, name, record)
    return Export(folder, manifest)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    _refuse_links(folder, [MANIFEST])
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != EXPORT_SCHEMA:
        raise UserError(
            f"the export {folder} has schema {version!r}, this synthcap_mm reads {EXPORT_SCHEMA}: update synthcap_mm "
            "(pip install -U synthcap_mm), or export anew"
        )
    for name, kind in _FIELDS.items():
        if name not in manifest or not isinstance(manifest[name], kind) or isinstance(manifest[name], bool):
            raise UserError(f"{path}: the field {name!r} is missing or of another kind")
    return manifest


def _refuse_links(folder: Path, parts: list[str]) -> None:
    if any((folder / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts))):
        raise UserError(
            f"{folder / Path(*parts)} is a link, or lies behind one: an export holds its files itself (hf download "
            "REPOSITORY --local-dir FOLDER makes none)"
        )


def _check_file(folder: Path, name: str, record: Any) -> None:
    """Refuse a file that is not as ``export.json`` says, no data, or not in the folder."""
    parts = name.split("/")
    if not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts) or Path(name).suffix not in DATA_SUFFIXES:
        raise UserError(f"{folder / MANIFEST} lists {name!r}, which is no name of a file of data in the folder")
    path = folder / name
    _refuse_links(folder, parts)
    if not path.is_file():
        raise UserError(f"the export {folder} lacks {name}: copy the whole folder, or export anew")
    if not isinstance(record, dict) or {*record} != {"bytes", "sha256"}:
        raise UserError(f"{folder / MANIFEST}: files[{name!r}] has the fields bytes and sha256")
    if path.stat().st_size != record["bytes"] or file_sha256(path) != record["sha256"]:
        raise UserError(f"the export's file {path} is damaged (its checksum differs): copy it or export anew")
