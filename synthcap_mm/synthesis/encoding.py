"""The models that stages use, built when they are first needed, and who encoded a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from synthcap_mm.errors import UserError
from synthcap_mm.files import write_once
from synthcap_mm.registry import MODELS, filled_in
from synthcap_mm.store import StoreError, Table
from synthcap_mm.store.checking import other_encoder, read_fingerprint
from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.synthesis.image_reader import ImageReader


def default_device() -> torch.device:
    """The GPU of this process, or the CPU; of several processes on a machine each has its own GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:  # without a process group nobody else sets it
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def build(config: dict | None, device: torch.device) -> Any:
    """The model of a config on a device; ``None`` for ``None``."""
    model = None if config is None else MODELS.build(config)
    return model.to(device) if hasattr(model, "to") else model


def build_tagger(config: dict | None, encoder: Any, device: torch.device) -> Any:
    """The tag provider of a config on a device; one that needs an encoder and names none shares the store's.

    Args:
        config: of the provider, or ``None``.
        encoder: the store's, built.
        device: where it computes.
    """
    return build(None if config is None else filled_in(config, encoder=encoder), device)


class BuiltModels:
    """Encoders, generator and tag provider of a config.

    Args:
        encoder: config of a backbone.
        generator: config of a generator, or ``None``.
        tag_provider: config of a tag provider, or ``None``.
        device: where they compute.
        other_encoders: name → config of further backbones. Default: none.
    """

    def __init__(
        self,
        encoder: dict,
        generator: dict | None,
        tag_provider: dict | None,
        device: torch.device,
        other_encoders: Mapping[str, dict] | None = None,
    ) -> None:
        self._encoders = {None: encoder, **(other_encoders or {})}
        self._generator, self._tag_provider, self.device = generator, tag_provider, device
        self._built: dict[str | None, Any] = {}
        self._fingerprints: dict[str | None, dict[str, Any]] = {}

    def encoder_named(self, name: str | None = None) -> Any:
        """A backbone.

        Args:
            name: of one of the other encoders. Default ``None``: the store's own.

        Raises:
            UserError: if there is none of this name.
        """
        if name not in self._encoders:
            raise UserError(
                f"there is no encoder {name!r}: name it in synthesis.other_encoders ({name}=dict(type=...))"
            )
        if name not in self._built:
            self._built[name] = build(self._encoders[name], self.device)
        return self._built[name]

    @cached_property
    def generator(self) -> Any:
        """What draws or retrieves."""
        return build(self._generator, self.device)

    @cached_property
    def reader(self) -> ImageReader:
        """Encodes and tags."""
        own = self.encoder_named()
        return ImageReader(own, build_tagger(self._tag_provider, own, self.device), self.encoder_named)

    def encoder_for(self, name: str, table: Table) -> Any:
        """The backbone of a table of features, to make shards of it with.

        Args:
            name: of the table, ``'text_features'`` or ``'text_features/NAME'``.
            table: the table.

        Raises:
            StoreError: if another encoder made the shards that are there.
        """
        encoder = other_encoder(name)
        self._agree(encoder, table)
        return self.encoder_named(encoder)

    def reader_for(self, tables: Mapping[str, Table]) -> ImageReader:
        """As :meth:`encoder_for`, with the tag provider.

        Args:
            tables: name → table of features; those that have shards to make, and the store's own.
        """
        reader = self.reader
        for name, table in tables.items():
            if name == "image_features" or table.missing():
                self._agree(other_encoder(name), table)
        return reader

    def _agree(self, encoder: str | None, table: Table) -> None:
        if encoder not in self._fingerprints:
            self._fingerprints[encoder] = self.encoder_named(encoder).fingerprint()
        fingerprint, path = self._fingerprints[encoder], table.folder / "encoder.json"
        if not path.exists():
            with write_once(path) as file:
                file.write(json.dumps(fingerprint).encode())
        check_same_encoder(fingerprint, table)


def check_same_encoder(fingerprint: dict[str, Any], table: Table) -> None:
    """Refuse a table of features that another encoder made, though its settings are the same.

    Raises:
        StoreError: naming both.
    """
    first = encoder_of(table)
    if not same_encoder(first, fingerprint):
        raise StoreError(
            f"the features in {table.folder} were made by an encoder that answers otherwise than this store's, though "
            f"its settings are the same: {describe_mismatch(first, fingerprint)}. Other weights stand behind the same "
            "name: give the encoder's settings what tells them apart, or the config another store."
        )


def encoder_of(table: Table) -> dict[str, Any]:
    """Fingerprint of the encoder that made a table of features."""
    return read_fingerprint(table.folder / "encoder.json")


def fingerprints_in(tables: Mapping[str, Table]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Fingerprints of a store's own encoder, and of the others by name.

    Args:
        tables: the store's, by name; all are whole.

    Raises:
        StoreError: if texts and images were encoded by encoders that answer otherwise.
    """
    found: dict[str | None, dict[str, Any]] = {}
    for name, table in tables.items():
        if name.partition("/")[0] in ("text_features", "image_features"):
            check_same_encoder(found.setdefault(other_encoder(name), encoder_of(table)), table)
    return found.pop(None), found
