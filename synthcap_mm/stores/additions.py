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

from synthcap_mm.files import write_json
from synthcap_mm.stores.errors import StoreError, StoreMissingError, explained
from synthcap_mm.stores.shards import shard_name, shard_problem, write_shard
from synthcap_mm.stores.store import ShardedTable, Store, check_schema, read_manifest

#: Folder of a store in which unfinished tables and their intermediate results lie.
WORK_FOLDER = ".additions"


def open_apart_from(path: str | os.PathLike, tables: Collection[str]) -> Store:
    """Open a store as if it did not have ``tables``: they are about to be made, and may be damaged.

    Args:
        path: the store's folder.
        tables: names of tables.

    Raises:
        StoreMissingError: if there is no store, or an unfinished one.
        StoreError: if something else of it is missing or damaged, or a newer version wrote it.
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
        check_schema(path, manifest)
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


def made_of(store: Store, tables: Collection[str]) -> dict[str, str]:
    """Identity of tables that another one is made of: name → hash of their shards' checksums."""
    return {name: fingerprint_of([r["sha256"] for r in store.manifest["tables"][name]["shards"]]) for name in tables}


def check_up_to_date(store: Store, pairs: str) -> None:
    """Refuse a curated pairs table whose captions, images or pairs have changed since it was made.

    Its rows would point at others. A table that is not curated (``default``) is always up to date.

    Args:
        store: the store.
        pairs: name of a pairs table that it has.

    Raises:
        StoreError: naming what changed, and the command that makes the table anew.
    """
    shards = store.manifest["tables"][f"pairs/{pairs}"]["shards"]
    if not any("curation" in record for record in shards):
        return
    again = f"Make it anew: python tools/curate.py CONFIG --replace (curation.name={pairs!r})."
    note = store.path / "pairs" / pairs / "curation.json"
    try:
        was = json.loads(note.read_text("utf-8"))["settings"]["made_of"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"what pairs/{pairs} of {store.path} was made of is not known ({error}). {again}") from error
    now = made_of(store, [name for name in was if store.has(name)])
    changed = [name for name in was if was[name] != now.get(name)]
    if changed:
        names = ", ".join(changed)
        raise StoreError(
            f"pairs/{pairs} of the store {store.path} is out of date: {names} changed since it was curated, "
            "and its rows may point at other captions and images. " + again
        )
    for name in was:
        if name.startswith("pairs/"):  # curated itself, perhaps
            check_up_to_date(store, name.removeprefix("pairs/"))


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
        self.store = Path(store)
        self._all = self.store / WORK_FOLDER
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
        """Write one part; it appears whole or not at all.

        Raises:
            StoreError: if the disk is full, or the folder must not be written in; parts that are there are kept.
        """
        with explained(self.store, self.inside(shard_name(table, index))):
            write_shard(self.root, table, index, rows)

    def inside(self, file: str) -> str:
        """Path inside the store of one of the job's files."""
        return f"{WORK_FOLDER}/{self.root.name}/{file}"

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
        StoreError: if the disk is full, or the folder must not be written in; the store is whole then,
            without the tables.
    """
    path = Path(path)
    file = path / "manifest.json"

    def manifest_without() -> dict[str, Any]:
        manifest = read_manifest(file) if file.is_file() else {}
        if not manifest.get("complete"):
            raise StoreMissingError(f"there is no finished store at {path} any more; {', '.join(tables)} was not added")
        manifest["tables"] = {k: v for k, v in manifest["tables"].items() if k not in tables}
        return manifest

    with explained(path, "manifest.json"):
        write_json(file, manifest_without())
    try:
        done: dict[str, dict[str, list]] = {name: {"shards": []} for name in tables}
        for name, shards in tables.items():
            for i, rows in enumerate(shards):
                with explained(path, shard_name(name, i)):
                    done[name]["shards"].append(write_shard(path, name, i, rows, **info))
        for note, value in notes.items():
            with explained(path, note):
                write_json(path / note, value)
        manifest = manifest_without()
        manifest["tables"] |= done
        with explained(path, "manifest.json"):
            write_json(file, manifest)
    except StoreError:
        # What no manifest lists only takes room, of which there may be none.
        for name in tables:
            shutil.rmtree(path / name, ignore_errors=True)
        raise
    for name, shards in tables.items():
        # The manifest has the records now; a longer table of the same name may have left shards.
        kept = {shard_name(name, i) for i in range(len(shards))}
        for beside in (path / name).glob("[0-9][0-9][0-9][0-9][0-9].*"):
            if f"{name}/{beside.name}" not in kept:
                beside.unlink()


def fingerprint_of(*values: Any) -> str:
    """Hex SHA-256 of JSON values: the same for the same settings, on any machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
