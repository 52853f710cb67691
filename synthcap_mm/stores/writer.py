"""Making a store: shards by anyone in any order, then one manifest."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from synthcap_mm.stores.errors import OtherSettingsError, StoreError, explained
from synthcap_mm.stores.schema import SCHEMA_VERSION
from synthcap_mm.stores.shards import (
    shard_name,
    shard_problem,
    write_atomically,
    write_json,
    write_record,
    write_shard,
)
from synthcap_mm.stores.store import check_schema, read_manifest
from synthcap_mm.stores.tar_images import IMAGES_TAR, TarImageWriter
from synthcap_mm.stores.versions import version_changes, without_versions

#: Manifest fields that change without changing what the store holds.
_NOT_COMPARED = (
    "created",
    "package_version",
    "tables",
    "complete",
    "tokenizer",
    "schema_version",
    "encoder",
    "libraries",
    "domains",  # rows by domain: the photos' hash has them already
)


#: Settings that stores did not record at first, of components that they did: where they lack them, they are not judged.
_RECORDED_LATER = frozenset({"config_sha256", "encoder_files"})


def _as_recorded(old: Any, new: Any) -> Any:
    """``new`` without what could not be in ``old`` yet."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: _as_recorded(old.get(k), v) for k, v in new.items() if k in old or k not in _RECORDED_LATER}
    return new


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
            hash, generator, tag provider, seed, … Versions of libraries in it are
            not compared with the store's.
        versions: versions of the libraries that make the shards; recorded once for
            all shards that were made with them. Default ``None``: not recorded.
        replaces: fields of the header that may differ from the store's: what depends
            on them is about to be made anew (refined features, tags of kept pictures). Default: none.

    Attributes:
        previous: the manifest that was there, or ``None``.
        replaced: where fields of ``replaces`` do differ, one line each.
        changed_versions: what differs between ``versions`` and those that the store was last made with.

    Raises:
        OtherSettingsError: if the folder holds (the beginnings of) a store with
            another header; the message names what differs.
        StoreError: if it was made with another encoder, by a newer version of this
            package, or is no store. Nothing is touched then.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        header: dict[str, Any],
        versions: dict[str, str] | None = None,
        replaces: Collection[str] = (),
    ) -> None:
        self.path = Path(path)
        self.header = json.loads(json.dumps(header))  # what a reader will see: tuples are lists there
        file = self.path / "manifest.json"
        self._known: dict[str, dict[str, Any]] = {}
        self._was_complete = False
        self._dropped: set[str] = set()
        self.previous: dict[str, Any] | None = None
        self.replaced: list[str] = []
        libraries: list[dict[str, str]] = []
        if file.is_file():
            self.previous = old = read_manifest(file)
            check_schema(self.path, old)
            libraries = list(old.get("libraries") or [])
            from synthcap_mm.stores.fingerprint import describe_mismatch, same_encoder

            if not same_encoder(old["encoder"], self.header["encoder"]):
                raise StoreError(
                    f"the store {self.path} was made with another encoder: "
                    f"{describe_mismatch(old['encoder'], self.header['encoder'])}. Choose another folder, or delete it."
                )
            compared = [
                {k: without_versions(v) for k, v in manifest.items() if k not in _NOT_COMPARED}
                for manifest in (old, _as_recorded(old, self.header))
            ]
            fields = [k for k in sorted({*compared[0], *compared[1]}) if compared[0].get(k) != compared[1].get(k)]
            refused = [k for k in fields if k not in replaces]
            lines = _differences(*({k: m.get(k) for k in refused or fields} for m in compared))
            if refused:
                raise OtherSettingsError(
                    f"the store {self.path} was made with other settings, and is not reused silently:\n  "
                    + "\n  ".join(lines)
                    + "\nChoose another folder, or delete it to make it anew.",
                    refused,
                )
            self.replaced = lines
            for table in old["tables"].values():
                for record in table["shards"]:
                    self._known[record["file"]] = record
            self._created = old.get("created")
            # What is about to be replaced makes a whole store an unfinished one.
            self._was_complete = bool(old.get("complete")) and not fields
            if old.get("tokenizer"):
                self.header.setdefault("tokenizer", old["tokenizer"])
        else:
            self._created = None
        self._is_new = not file.is_file()
        self.changed_versions = version_changes(libraries[-1], versions) if libraries and versions else []
        if versions is not None and versions not in libraries:
            libraries.append(versions)
        self._made_with = libraries.index(versions) if versions is not None else None
        if libraries:
            self.header["libraries"] = libraries

    def set_default(self, table: str, index: int | None = None, **info: Any) -> None:
        """Give the records of the manifest that was there fields that they lack (written by an older version).

        Args:
            table: the table.
            index: number of one shard. Default ``None``: all.
            **info: the fields.
        """
        for name, record in self._known.items():
            if name.rsplit("/", 1)[0] == table and (index is None or name == shard_name(table, index)):
                self._known[name] = {**record, **{k: v for k, v in info.items() if k not in record}}

    def reword(self, table: str, field: str, old: Any, new: Any) -> None:
        """Where a record of the manifest that was there says ``old`` in a field, it says ``new`` from now on."""
        for name, record in self._known.items():
            if name.rsplit("/", 1)[0] == table and record.get(field) == old:
                self._known[name] = {**record, field: new}

    def drop(self, table: str) -> None:
        """Leave a table out of the manifest from now on; :meth:`finish` removes its files."""
        self._known = {name: r for name, r in self._known.items() if name.rsplit("/", 1)[0] != table}
        self._dropped.add(table)

    def begin(self, created: str, package_version: str) -> None:
        """Write a manifest that says 'not finished' (one rank calls it).

        A finished store stays one: what may have been lost of it shows by its checksums.
        """
        with explained(self.path, "manifest.json"):
            self._begin(created, package_version)

    def _begin(self, created: str, package_version: str) -> None:
        if self._is_new:
            # Records without a manifest are of who knows which settings: their shards are made anew.
            for pattern in ("captions", "images", IMAGES_TAR, "pairs/*", "refined/*"):
                for beside in self.path.glob(f"{pattern}/[0-9][0-9][0-9][0-9][0-9].json"):
                    beside.unlink()
        self._created = self._created or created
        self._package_version = package_version
        if not self._was_complete:
            self._write_unfinished()

    def _write_unfinished(self) -> None:
        tables: dict[str, Any] = {}
        for record in self._known.values():
            tables.setdefault(record["file"].rsplit("/", 1)[0], {"shards": []})["shards"].append(record)
        self._write(tables, complete=False)

    def note(self, **fields: Any) -> None:
        """Write further fields into the manifest of an unfinished store (one rank calls it)."""
        self.header.update(fields)
        with explained(self.path, "manifest.json"):
            self._write_unfinished()

    def _write(self, tables: dict[str, Any], complete: bool) -> None:
        # The same order in every run: one that makes nothing leaves the file as it was.
        late = ("libraries", "tokenizer")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "complete": complete,
            "created": self._created,
            "package_version": self._package_version,
            **{k: v for k, v in self.header.items() if k not in late},
            **{k: self.header[k] for k in late if k in self.header},
            "tables": tables,
        }
        write_json(self.path / "manifest.json", manifest)

    def record(self, table: str, index: int, full: bool = True) -> dict[str, Any] | None:
        """The record of a shard that is whole and undamaged, or ``None``.

        Args:
            table: the table.
            index: the shard's number.
            full: compare its checksum too, which reads the file. Default ``True``.
        """
        name = shard_name(table, index)
        beside = (self.path / name).with_suffix(".json")
        record = self._known.get(name)
        if beside.is_file():
            try:
                record = json.loads(beside.read_text(encoding="utf-8"))
            except ValueError:
                record = None
        if record is None or shard_problem(self.path, record, full):
            return None
        return record

    def write(self, table: str, index: int, rows: pa.Table, **info: Any) -> dict[str, Any]:
        """Write one shard; see :func:`~synthcap_mm.stores.shards.write_shard`.

        Raises:
            StoreError: if the disk is full, or the folder must not be written in; nothing half-written is left.
        """
        with explained(self.path, shard_name(table, index)):
            return write_shard(self.path, table, index, rows, **self._info(info))

    @contextlib.contextmanager
    def tar_images(self, index: int, image_format: str) -> Iterator[TarImageWriter]:
        """A tar shard of kept images to add pictures to; it appears whole at the end of the block, or not at all.

        Raises:
            StoreError: as :meth:`write`.
        """
        name = shard_name(IMAGES_TAR, index)
        with explained(self.path, name):
            with write_atomically(self.path / name) as file:
                tar = TarImageWriter(file, image_format)
                yield tar
                tar.close()
            write_record(self.path, IMAGES_TAR, index, tar.rows, **self._info({"format": image_format}))

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return info if self._made_with is None else {**info, "made_with": self._made_with}

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
            # Their checksums were compared when the run began, or made from the files since.
            records = [self.record(table, i, full=False) for i in range(count)]
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
        # Versions that made nothing of it are not its versions.
        used = max((r.get("made_with", -1) for table in done.values() for r in table["shards"]), default=-1)
        if "libraries" in self.header:
            self.header["libraries"] = self.header["libraries"][: used + 1]
        with explained(self.path, "manifest.json"):
            self._write(done, complete=True)
        # The manifest is the only record from here on. Temporary files are of runs that were killed.
        for table in (*tables, *self._dropped):
            for pattern in ("*.json", ".*.tmp", *(["*.arrow"] if table in self._dropped else [])):
                for beside in (self.path / table).glob(pattern):
                    beside.unlink()
        return done
