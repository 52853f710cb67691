"""Making a store: shards by anyone in any order, then one manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthcap_mm.stores.schema import SCHEMA_VERSION
from synthcap_mm.stores.shards import shard_name, shard_problem, write_json, write_shard
from synthcap_mm.stores.store import StoreError, read_manifest

#: Manifest fields that change without changing what the store holds.
_NOT_COMPARED = ("created", "package_version", "tables", "complete", "tokenizer", "schema_version", "encoder")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: the store has {old!r}, the config asks for {new!r}"]


class StoreWriter:
    """A store in the making.

    Args:
        path: the store's folder; made if need be.
        header: everything of the manifest but the shards: encoder, captions'
            hash, generator, tag provider, seed, …

    Raises:
        StoreError: if the folder holds (the beginnings of) a store with another
            header; the message names what differs. Nothing is touched then.
    """

    def __init__(self, path: str | os.PathLike, header: dict[str, Any]) -> None:
        self.path = Path(path)
        self.header = json.loads(json.dumps(header))  # what a reader will see: tuples are lists there
        file = self.path / "manifest.json"
        self._known: dict[str, dict[str, Any]] = {}
        self._was_complete = False
        if file.is_file():
            old = read_manifest(file)
            version = old["schema_version"]
            if version != SCHEMA_VERSION:
                raise StoreError(f"{file} has schema {version}, this synthcap_mm writes {SCHEMA_VERSION}")
            from synthcap_mm.stores.fingerprint import describe_mismatch, same_encoder

            if not same_encoder(old["encoder"], self.header["encoder"]):
                raise StoreError(
                    f"the store {self.path} was made with another encoder: "
                    f"{describe_mismatch(old['encoder'], self.header['encoder'])}. Choose another folder, or delete it."
                )
            compared = [
                {k: v for k, v in manifest.items() if k not in _NOT_COMPARED} for manifest in (old, self.header)
            ]
            differing = _differences(*compared)
            if differing:
                raise StoreError(
                    f"the store {self.path} was made with other settings, and is not reused silently:\n  "
                    + "\n  ".join(differing)
                    + "\nChoose another folder, or delete it to make it anew."
                )
            for table in old["tables"].values():
                for record in table["shards"]:
                    self._known[record["file"]] = record
            self._created = old.get("created")
            self._was_complete = bool(old.get("complete"))
            if old.get("tokenizer"):
                self.header.setdefault("tokenizer", old["tokenizer"])
        else:
            self._created = None
        self._is_new = not file.is_file()

    def begin(self, created: str, package_version: str) -> None:
        """Write a manifest that says 'not finished' (one rank calls it).

        A finished store stays one: what may have been lost of it shows by its checksums.
        """
        if self._is_new:
            # Records without a manifest are of who knows which settings: their shards are made anew.
            for pattern in ("captions", "images", "pairs/*", "refined/*"):
                for beside in self.path.glob(f"{pattern}/[0-9][0-9][0-9][0-9][0-9].json"):
                    beside.unlink()
        self._created = self._created or created
        self._package_version = package_version
        if self._was_complete:
            return
        tables: dict[str, Any] = {}
        for record in self._known.values():
            tables.setdefault(record["file"].rsplit("/", 1)[0], {"shards": []})["shards"].append(record)
        self._write(tables, complete=False)

    def _write(self, tables: dict[str, Any], complete: bool) -> None:
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "complete": complete,
            "created": self._created,
            "package_version": self._package_version,
            **self.header,
            "tables": tables,
        }
        write_json(self.path / "manifest.json", manifest)

    def record(self, table: str, index: int) -> dict[str, Any] | None:
        """The record of a shard that is whole and undamaged, or ``None``."""
        name = shard_name(table, index)
        beside = (self.path / name).with_suffix(".json")
        record = self._known.get(name)
        if beside.is_file():
            try:
                record = json.loads(beside.read_text(encoding="utf-8"))
            except ValueError:
                record = None
        if record is None or shard_problem(self.path, record, full=True):
            return None
        return record

    def write(self, table: str, index: int, rows: pa.Table, **info: Any) -> dict[str, Any]:
        """Write one shard; see :func:`~synthcap_mm.stores.shards.write_shard`."""
        return write_shard(self.path, table, index, rows, **info)

    def finish(self, tables: dict[str, int], **extra: Any) -> dict[str, Any]:
        """Write the manifest of the whole store (one rank calls it, after all have written).

        Args:
            tables: each table's number of shards.
            **extra: further fields of the manifest (the tokenizer's entry).

        Returns:
            The records by table.

        Raises:
            StoreError: if a shard is missing or damaged.
        """
        done: dict[str, Any] = {}
        for table, count in tables.items():
            records = [self.record(table, i) for i in range(count)]
            lost = [shard_name(table, i) for i, r in enumerate(records) if r is None]
            if lost:
                raise StoreError(f"the store {self.path} lacks the shards {', '.join(lost[:5])}; run the command again")
            done[table] = {"shards": records}
        # Another pairs table (curation) stays.
        for record in self._known.values():
            table = record["file"].rsplit("/", 1)[0]
            if table not in tables:
                done.setdefault(table, {"shards": []})["shards"].append(record)
        self.header.update(extra)
        self._write(done, complete=True)
        # The manifest is the only record from here on. Temporary files are of runs that were killed.
        for table in tables:
            for pattern in ("*.json", ".*.tmp"):
                for beside in (self.path / table).glob(pattern):
                    beside.unlink()
        return done
