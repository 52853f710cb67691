"""Shards: files that appear whole or not at all, with their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from synthcap_mm.files import file_sha256, folder_sha256, write_atomically, write_json
from synthcap_mm.stores.tar_images import IMAGES_TAR


def portable(value: Any) -> Any:
    """Settings as a store may hold them: files and folders by name and content, so that a store can be moved."""
    if isinstance(value, dict):
        # A type or kind is a name, whatever lies in the current folder.
        return {k: v if k in ("type", "kind") else portable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(v) for v in value]
    if isinstance(value, (str, Path)) and str(value) and Path(value).exists():
        path = Path(value)
        if path.is_file():
            return {"file": path.name, "sha256": file_sha256(path)}
        return {"folder": path.name, "files_sha256": folder_sha256(path)}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def shard_name(table: str, index: int) -> str:
    """Path of a shard inside its store."""
    return f"{table}/{index:05d}.{'tar' if table == IMAGES_TAR else 'arrow'}"


def write_shard(root: Path, table: str, index: int, rows: pa.Table, **info: Any) -> dict[str, Any]:
    """Write one shard, then its record.

    The record (rows, bytes, SHA-256, and ``info``) is written beside the shard,
    after it: a shard without a record is an unfinished one.

    Returns:
        The record.
    """
    # One record batch a shard, so that every column is one piece of the map.
    with write_atomically(root / shard_name(table, index)) as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows.combine_chunks(), max_chunksize=max(1, rows.num_rows))
    return write_record(root, table, index, rows.num_rows, **info)


def write_record(root: Path, table: str, index: int, rows: int, **info: Any) -> dict[str, Any]:
    """Write the record of a shard whose file is there.

    Returns:
        The record.
    """
    name = shard_name(table, index)
    path = root / name
    record = {"file": name, "rows": rows, "bytes": path.stat().st_size, "sha256": file_sha256(path), **info}
    write_json(path.with_suffix(".json"), record)
    return record


def shard_problem(root: Path, record: dict[str, Any], full: bool) -> str | None:
    """What is wrong with a shard, or ``None``.

    Args:
        root: the store.
        record: what the shard should be.
        full: also compare the checksum, which reads the file.
    """
    path = root / record["file"]
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "is missing"
    if size != record["bytes"]:
        return f"is damaged ({size} bytes instead of {record['bytes']})"
    if full and file_sha256(path) != record["sha256"]:
        return "is damaged (its checksum differs)"
    return None
