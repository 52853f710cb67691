"""Shards: files that appear whole or not at all, with their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from synthcap_mm.stores.tar_images import IMAGES_TAR


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path`` only once it is whole and on disk.

    On an exception the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner only; a store is there to be shared.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def file_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: BinaryIO) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def folder_sha256(folder: str | os.PathLike, sample: int = 1 << 16) -> str:
    """Hex SHA-256 of what tells a folder from another, without reading gigabytes.

    Names, sizes, and the beginning, middle and end of all files: weights of another training differ there
    too. Hidden files and folders do not count (``hf download`` keeps notes in them).

    Args:
        folder: the folder.
        sample: bytes read at each of the three places; files up to this size are read whole. Default 65,536.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        size = path.stat().st_size
        digest.update(f"{relative.as_posix()}\t{size}\n".encode())
        with open(path, "rb") as file:
            for start in sorted({0, max(0, (size - sample) // 2), max(0, size - sample)}):
                file.seek(start)
                digest.update(file.read(sample))
    return digest.hexdigest()


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
