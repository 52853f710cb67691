"""Further tables in a finished store: another pairs table appears whole, or the store stays as it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthcap_mm.stores.errors import StoreError, StoreMissingError
from synthcap_mm.stores.shards import shard_name, shard_problem, write_json, write_shard
from synthcap_mm.stores.store import ShardedTable, Store, read_manifest

#: Folder of a store in which unfinished tables and their intermediate results lie.
WORK_FOLDER = ".additions"


def open_apart_from(path: str | os.PathLike, tables: Collection[str]) -> Store:
    """Open a store as if it did not have ``tables``: they are about to be made, and may be damaged.

    Args:
        path: the store's folder.
        tables: names of tables.

    Raises:
        StoreMissingError: if there is no store, or an unfinished one.
        StoreError: if something else of it is missing or damaged.
    """
    path = Path(path)
    try:
        return Store.open(path)
    except StoreMissingError:
        raise
    except StoreError:
        if not (path / "manifest.json").is_file():
            raise
        manifest = read_manifest(path / "manifest.json")
        others = {
            record["file"]
            for name, table in manifest["tables"].items()
            if name not in tables
            for record in table["shards"]
            if shard_problem(path, record, full=False)
        }
        spoilt = any(
            shard_problem(path, record, full=False)
            for name in tables
            for record in manifest["tables"].get(name, {"shards": []})["shards"]
        )
        if others or not spoilt:
            raise
        return Store(path, {**manifest, "tables": {k: v for k, v in manifest["tables"].items() if k not in tables}})


class Parts:
    """Intermediate tables of a job, in shards that survive an interruption.

    A part that is there and whole is not made again. Parts of other settings
    (another ``key``) are never read.

    Args:
        store: the store's folder.
        name: of the job.
        key: hash of all that the parts depend on.
    """

    def __init__(self, store: str | os.PathLike, name: str, key: str) -> None:
        self._all = Path(store) / WORK_FOLDER
        self.name = name
        self.root = self._all / f"{name}-{key[:16]}"

    def sweep(self) -> None:
        """Remove what other settings left under this name (one rank calls it)."""
        for other in self._all.glob(f"{self.name}-*"):
            # another job's name may begin as this one's does
            if other != self.root and len(other.name) == len(self.root.name):
                shutil.rmtree(other, ignore_errors=True)

    def record(self, table: str, index: int) -> dict[str, Any] | None:
        """The record of a part that is whole and undamaged, or ``None``."""
        try:
            record = json.loads((self.root / shard_name(table, index)).with_suffix(".json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return None if shard_problem(self.root, record, full=True) else record

    def missing(self, table: str, count: int) -> list[int]:
        """Numbers of the parts of ``table`` that are still to make."""
        return [i for i in range(count) if self.record(table, i) is None]

    def write(self, table: str, index: int, rows: pa.Table) -> None:
        """Write one part; it appears whole or not at all."""
        write_shard(self.root, table, index, rows)

    def read(self, table: str, count: int) -> ShardedTable:
        """All parts of a table as one.

        Raises:
            StoreError: if one got lost meanwhile.
        """
        records = [self.record(table, i) for i in range(count)]
        if None in records:
            raise StoreError(f"{self.root} lost a part of {table} while it was used; run the command again")
        return ShardedTable(self.root, table, records)

    def remove(self) -> None:
        """Remove all parts of the job (one rank calls it, at the end)."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._all.rmdir()


def add_tables(
    path: str | os.PathLike, tables: dict[str, Sequence[pa.Table]], notes: dict[str, Any], **info: Any
) -> None:
    """Write tables into a finished store (one rank calls it).

    The manifest is replaced last, so that the store has all of the tables or none,
    and never one with shards of two runs. Tables of the same name are taken out of
    the manifest first: an interruption leaves the store without them, not damaged.
    The manifest is read again for this, so that what others added meanwhile stays.

    Args:
        path: the store's folder.
        tables: name → its shards, in order.
        notes: file name inside the store → JSON value, written beside the shards.
        **info: further fields of each shard's record.

    Raises:
        StoreMissingError: if there is no finished store (any more).
    """
    path = Path(path)
    file = path / "manifest.json"

    def manifest_without() -> dict[str, Any]:
        manifest = read_manifest(file) if file.is_file() else {}
        if not manifest.get("complete"):
            raise StoreMissingError(f"there is no finished store at {path} any more; {', '.join(tables)} was not added")
        manifest["tables"] = {k: v for k, v in manifest["tables"].items() if k not in tables}
        return manifest

    write_json(file, manifest_without())
    done = {
        name: {"shards": [write_shard(path, name, i, rows, **info) for i, rows in enumerate(shards)]}
        for name, shards in tables.items()
    }
    for note, value in notes.items():
        write_json(path / note, value)
    manifest = manifest_without()
    manifest["tables"] |= done
    write_json(file, manifest)
    for name, shards in tables.items():
        # The manifest has the records now; a longer table of the same name may have left shards.
        kept = {shard_name(name, i) for i in range(len(shards))}
        for beside in (path / name).glob("[0-9][0-9][0-9][0-9][0-9].*"):
            if f"{name}/{beside.name}" not in kept:
                beside.unlink()


def fingerprint_of(*values: Any) -> str:
    """Hex SHA-256 of JSON values: the same for the same settings, on any machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
