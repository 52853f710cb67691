"""The models that stages use, built when they are first needed, and who encoded a table."""

from __future__ import annotations

import json
import os
from functools import cached_property
from typing import Any

import torch

from synthcap_mm.files import write_once
from synthcap_mm.registry import MODELS, filled_in
from synthcap_mm.store import StoreError, Table
from synthcap_mm.store.checking import read_fingerprint
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
    """Encoder, generator and tag provider of a config.

    Args:
        encoder: config of a backbone.
        generator: config of a generator, or ``None``.
        tag_provider: config of a tag provider, or ``None``.
        device: where they compute.
    """

    def __init__(self, encoder: dict, generator: dict | None, tag_provider: dict | None, device: torch.device) -> None:
        self._encoder, self._generator, self._tag_provider, self.device = encoder, generator, tag_provider, device

    @cached_property
    def encoder(self) -> Any:
        """The backbone."""
        return build(self._encoder, self.device)

    @cached_property
    def generator(self) -> Any:
        """What draws or retrieves."""
        return build(self._generator, self.device)

    @cached_property
    def reader(self) -> ImageReader:
        """Encodes and tags."""
        return ImageReader(self.encoder, build_tagger(self._tag_provider, self.encoder, self.device))

    def encoder_for(self, table: Table) -> Any:
        """The backbone, to make shards of a table of features with.

        Raises:
            StoreError: if another encoder made the shards that are there.
        """
        self._agree(table)
        return self.encoder

    def reader_for(self, table: Table) -> ImageReader:
        """As :meth:`encoder_for`, with the tag provider."""
        reader = self.reader
        self._agree(table)
        return reader

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return self.encoder.fingerprint()

    def _agree(self, table: Table) -> None:
        fingerprint, path = self._fingerprint, table.folder / "encoder.json"
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
