"""An exported captioner: the files of its folder, and how they are read without executing anything."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256, read_json
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS, SCOPE

#: Version of the folder's format. A newer one is refused.
EXPORT_SCHEMA = 1
MANIFEST, CONFIG, WEIGHTS, MEMORY, TEXTS, TOKENIZER = (
    "export.json", "config.json", "model.safetensors", "memory.safetensors", "memory.txt", "tokenizer.json",
)  # fmt: skip
#: Key of a file of the folder in ``config.json``: ``{"$file": "encoder/weights.safetensors"}``.
FILE = "$file"
#: Kinds of files that hold data and nothing that is executed when they are read.
DATA_SUFFIXES = (".safetensors", ".json", ".txt", ".gz")
#: Settings by which code, or weights that the folder does not hold, would come in.
_REFUSED = ("_scope_", "custom_imports", "init_cfg")


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by ``tools/export.py``."""
    return Path(folder, MANIFEST).is_file()


def check_settings(settings: Any, where: str = "config.json") -> None:
    """Refuse settings by which an export could bring code.

    Only registered components are built: the package's own, and those that the user
    imported. (MMEngine's registries would import the module of any dotted name.)

    Args:
        settings: of a component.
        where: for messages.

    Raises:
        UserError: naming what is refused.
    """
    if isinstance(settings, dict):
        for key in _REFUSED:
            if settings.get(key) is not None:
                raise UserError(f"{where}: {key!r} has no place in an export, which executes nothing")
        for key, value in settings.items():
            if key == "type":
                _check_type(value, where)
            elif isinstance(value, str) and Path(value).suffix in (".py", ".pt", ".pth", ".bin", ".pkl", ".ckpt"):
                raise UserError(f"{where}: {key}={value!r} names a file of code or pickled objects; it is not read")
            else:
                check_settings(value, where)
    elif isinstance(settings, list):
        for value in settings:
            check_settings(value, where)


def _check_type(name: Any, where: str) -> None:
    MODELS.import_from_location()
    plain = name.removeprefix(f"{SCOPE}.") if isinstance(name, str) else name
    if not isinstance(plain, str) or plain not in MODELS.module_dict:
        raise UserError(
            f"{where} names the component {name!r}, which is not one of synthcap_mm's. If it is your own, import the "
            "module that registers it first; nothing is imported because an export says so."
        )


class Export:
    """An exported folder, open for reading; see :func:`read_export`.

    Attributes:
        folder: the folder.
        manifest: what ``export.json`` says.
        encoder: config of the backbone, or ``None`` if it is not in the folder.
        tag_provider: config of the tag provider, or ``None``.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], config: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._model = config["model"]
        self.encoder: dict[str, Any] | None = config.get("encoder")
        self.tag_provider: dict[str, Any] | None = config.get("tag_provider")

    @property
    def model(self) -> dict[str, Any]:
        """Config of the captioner, with the folder's tokenizer, and memories that are still to be set."""
        data = {**self._model["data_preprocessor"], "tokenizer": str(self.folder / TOKENIZER)}
        return {**self._model, "data_preprocessor": data}

    def load_into(self, model: torch.nn.Module) -> None:
        """Give a captioner that was built from :attr:`model` its weights and memory.

        Raises:
            UserError: if they do not fit.
        """
        from safetensors.torch import load_model

        try:
            load_model(model, self.folder / WEIGHTS)
        except RuntimeError as error:
            raise UserError(f"{self.folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
        model.encoder = self.manifest["encoder"]
        if (self.folder / MEMORY).is_file():
            self._load_memory_into(model)

    def _load_memory_into(self, model: torch.nn.Module) -> None:
        from safetensors.torch import load_file

        feats = load_file(self.folder / MEMORY)["features"].float()
        digest = self.manifest["memory"]["sha256"]
        model.bind_memory(CaptionMemory(feats, self.memory_text, self.manifest["encoder"], digest))

    @cached_property
    def _texts(self) -> list[str]:
        return (self.folder / TEXTS).read_text(encoding="utf-8").split("\n")[:-1]

    def memory_text(self, row: int) -> str:
        """The caption at a row of the memory."""
        return self._texts[row]

    def left_out(self, part: str) -> str:
        """Why a part is not in the folder and what to do, for the end of a message."""
        why = self.manifest.get("left_out", {}).get(part)
        return f". {why}" if why else f": give {part}=dict(type=...)"


def read_export(folder: str | os.PathLike[str]) -> Export:
    """Open an exported folder.

    All files are compared with their checksums. Nothing is executed: the config is
    json, weights are safetensors, components are registered ones.

    Args:
        folder: the folder.

    Raises:
        UserError: if it is no export, is damaged, was made by a newer version, or brings what would be executed.
    """
    folder = Path(folder)
    if not is_export(folder):
        raise UserError(
            f"{folder} is no exported captioner (no {MANIFEST} in it). Make one: "
            "python tools/export.py CONFIG CHECKPOINT FOLDER"
        )
    manifest = read_json(folder / MANIFEST)
    version = manifest.get("schema_version")
    if not isinstance(version, int) or version > EXPORT_SCHEMA:
        raise UserError(
            f"the export {folder} has schema {version} (synthcap_mm {manifest.get('synthcap_mm', 'unknown')}), this "
            f"synthcap_mm reads up to {EXPORT_SCHEMA}: update synthcap_mm (pip install -U synthcap_mm)."
        )
    for name, record in manifest["files"].items():
        path = _inside(folder, name)
        if path.suffix not in (*DATA_SUFFIXES, ".md"):
            raise UserError(f"the export {folder} holds {name}, which is not data; it is not used")
        if not path.is_file():
            raise UserError(f"the export {folder} lacks {name}: copy the whole folder, or export anew")
        if path.stat().st_size != record["bytes"] or file_sha256(path) != record["sha256"]:
            raise UserError(f"the export's file {path} is damaged (its checksum differs): copy it or export anew")
    config = read_json(folder / CONFIG)
    check_settings(config, str(folder / CONFIG))
    if config["model"].get("head", {}).get("pretrained") is not None:
        raise UserError(f"{folder / CONFIG}: 'pretrained' has no place in an export, whose weights are its own")
    return Export(folder, manifest, _with_paths(config, folder, manifest))


def _inside(folder: Path, name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name.split("/"):
        raise UserError(f"the export {folder} names the file {name!r}, which is not in it")
    return folder / name


def _with_paths(value: Any, folder: Path, manifest: dict[str, Any]) -> Any:
    """Settings with the folder's files as paths."""
    if isinstance(value, dict):
        if FILE in value:
            name = value[FILE]
            if name not in manifest["files"]:
                raise UserError(f"{folder / CONFIG} names the file {name!r}, which {MANIFEST} does not list")
            return str(_inside(folder, name))
        return {key: _with_paths(one, folder, manifest) for key, one in value.items()}
    return [_with_paths(one, folder, manifest) for one in value] if isinstance(value, list) else value
