"""Tables: rows in shards that are named by what goes into them, and memory-mapped when they are read.

A table lies in ``tables/NAME-DIGEST``, DIGEST being a hash of its recipe, which lies beside the shards as
``recipe.json``. A shard is ``PLACE-KEY.arrow``: PLACE is its number, KEY a hash of what it was made of. A shard with
that name is therefore the right one, whoever wrote it; one that is not there has still to be made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256, names_in, parse_json, remove_abandoned, write_once
from synthcap_mm.store.checking import KEY, Expected, check_batch, check_shard, read_batch, regular
from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.recipes import digest

#: Field of the Arrow schema's metadata.
_FACTS = b"synthcap_mm"
#: First and last bytes of an Arrow file.
_MAGIC = b"ARROW1"
#: Last bytes of a tar.
_TAR_END = bytes(1024)
#: Shards that a process keeps mapped, well below what Linux allows (65,530 maps); COCO takes 4,400.
_MAPPED = 8192


def key_of(*values: Any) -> str:
    """The key of a shard that is made of ``values`` (JSON)."""
    return digest(values, KEY)


class Table:
    """A table as a recipe describes it, whether its shards are there or not.

    Args:
        root: the store's folder.
        name: what kind of table it is: ``'texts'``, ``'image_features'``, …
        recipe: JSON value; what decides the content besides the shards' keys.
        keys: the key of each shard, in order.
        inputs: tables that it is made of, for views: a table whose inputs changed is not in them any more.
        suffix: of the shards' files. Default ``'.arrow'``.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        recipe: dict[str, Any],
        keys: Sequence[str],
        inputs: Sequence[Table] = (),
        suffix: str = ".arrow",
    ) -> None:
        self.name, self.recipe, self.inputs = name, {"table": name, **recipe}, list(inputs)
        self.keys, self._suffix = list(keys), suffix
        self.root = Path(root)
        self.folder = self.root / "tables" / f"{name}-{digest(self.recipe)}"
        self.names = [f"{place:05d}-{key}{suffix}" for place, key in enumerate(self.keys)]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def identity(self) -> str:
        """Hash of the table's whole content."""
        return digest([self.folder.name, self.keys], KEY)

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / self.names[shard]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there; the folder is listed, no file is opened."""
        there = names_in(self.folder)
        return [i for i, name in enumerate(self.names) if name not in there]

    def clean(self) -> list[str]:
        """Move damaged shards away, so that they are made anew, and remove what killed jobs left; a run begins so.

        Only a file's ends are looked at: ``synthcap-mm store FOLDER --check`` compares checksums.

        Returns:
            Names of the damaged shards.
        """
        remove_abandoned(self.folder)
        there = names_in(self.folder)
        # Also those of earlier captions, whose rows are copied.
        shards = [name for name in sorted(there) if name[:1].isdigit() and name.endswith(self._suffix)]
        damaged = [name for name in shards if not _is_whole(self.folder / name, self.name == "pictures")]
        for name in damaged:
            set_aside(self.folder / name)
        return damaged

    def write(self, shard: int, rows: pa.Table, **facts: Any) -> None:
        """Write a shard; it appears whole or not at all.

        Args:
            shard: its number.
            rows: its rows.
            **facts: JSON values to be known without reading the rows, such as counts of flags.

        Raises:
            OSError: if it cannot be written; the error names the file.
        """
        self.write_recipe()
        if self.path(shard).exists():
            return
        batch = rows.combine_chunks().to_batches(max_chunksize=max(1, rows.num_rows))
        batch = batch[0] if batch else pa.RecordBatch.from_pylist([], schema=rows.schema)
        facts = {"sha256": _payload_sha256(_round_trip(batch)), **facts}
        batch = batch.replace_schema_metadata({_FACTS: json.dumps(facts, sort_keys=True)})
        # One record batch a shard, so that every column is one piece of the map.
        with write_once(self.path(shard)) as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    def write_recipe(self) -> None:
        """Write ``recipe.json``, unless it is there."""
        path = self.folder / "recipe.json"
        if not path.exists():
            with write_once(path) as file:
                file.write((json.dumps(self.recipe, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def write_bytes(self, shard: int, content: bytes) -> None:
        """Write a shard that is no Arrow file."""
        self.write_recipe()
        with write_once(self.path(shard)) as file:
            file.write(content)

    def read(self, shards: Iterable[int] | None = None) -> ShardedTable:
        """The rows of some shards, one after another (all by default).

        Raises:
            StoreError: if one is not there.
        """
        paths = [self.path(i) for i in (range(len(self)) if shards is None else shards)]
        return ShardedTable(paths, [Expected(read_shard(path).num_rows) for path in paths])


def _round_trip(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch as a reader gets it, so that its checksum is the same whoever computes it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return read_batch(pa.BufferReader(sink.getvalue()), "")


def _payload_sha256(batch: pa.RecordBatch) -> str:
    hashed = hashlib.sha256(str(batch.schema.remove_metadata()).encode())
    for column in batch.columns:
        for buffer in column.buffers():
            hashed.update(b"-" if buffer is None else buffer)
    return hashed.hexdigest()


def _is_whole(path: Path, with_tar: bool) -> bool:
    if path.suffix != ".arrow":
        return path.stat().st_size > 0
    if not _begins_and_ends(path, _MAGIC, _MAGIC):
        return False
    tar = path.with_suffix(".tar")
    return not with_tar or (_begins_and_ends(tar, b"", _TAR_END) and tar.stat().st_size % tarfile.RECORDSIZE == 0)


def _begins_and_ends(path: Path, first: bytes, last: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size < len(first) + len(last):
                return False
            file.seek(0)
            if file.read(len(first)) != first:
                return False
            file.seek(size - len(last))
            return file.read() == last
    except FileNotFoundError:  # other errors are the file system's, and no damage
        return False


def set_aside(path: Path) -> None:
    """Rename a damaged shard, so that it counts as missing and can still be looked at."""
    forget_shards()
    with contextlib.suppress(FileNotFoundError):  # another worker was faster
        tar = path.with_suffix(".tar")  # of kept pictures; first, since without its index it would count as whole
        if tar.exists():
            tar.replace(tar.with_name(f"{tar.name}.damaged"))
        path.replace(path.with_name(f"{path.name}.damaged"))


def forget_shards() -> None:
    """Map and check shards anew when they are next used."""
    for remembered in (read_shard, _checked_shard, _feature_map):
        remembered.cache_clear()
    _found_right.clear()


@lru_cache(maxsize=_MAPPED)
def read_shard(path: Path) -> pa.RecordBatch:
    """A shard, memory-mapped and checked; the least recently used of many is let go.

    Raises:
        StoreError: if it is missing or damaged.
    """
    try:
        batch = _map(path) if path in _found_right else _read(path)
        _found_right.add(path)
        return batch
    except (*_DAMAGED, UserError) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT):  # the file system's; Arrow's own have none
            raise
        raise StoreError(
            f"the shard {path} is missing or damaged ({error}); the command that made the store makes it anew"
        ) from error


#: What reading a damaged file raises.
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError)


#: Shards that this process has checked; one that was let go is mapped again without that.
_found_right: set[Path] = set()


def _map(path: Path) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as file:
        return read_batch(file, path.parent.name.rpartition("-")[0])


def _read(path: Path) -> pa.RecordBatch:
    batch = _map(regular(path))
    check_batch(batch, path.parent.name.rpartition("-")[0])
    facts = parse_json(path, (batch.schema.metadata or {}).get(_FACTS, b""))
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str):
        raise ValueError("it has no checksum")
    return batch


@lru_cache(maxsize=_MAPPED)
def _checked_shard(path: Path, expected: Expected) -> pa.RecordBatch:
    batch = read_shard(path)
    check_shard(path, batch, expected)
    return batch


def rows_and_sha256(path: Path) -> tuple[int, str]:
    """How many rows a shard has, and the checksum that stands beside them; of other files 1, and theirs."""
    if path.suffix != ".arrow":
        return 1, file_sha256(path)
    return read_shard(path).num_rows, facts_of(path)["sha256"]


def facts_of(path: Path) -> dict[str, Any]:
    """What a shard says of itself: ``sha256`` of its rows, and what its writer added."""
    return json.loads(read_shard(path).schema.metadata[_FACTS])


def is_undamaged(path: Path) -> bool:
    """Whether a shard's rows have the checksum that stands beside them; reads all of it."""
    try:
        batch = _read(path)
        other = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)  # as other programs find it, by the footer
        other.validate(full=True)
        same = other.equals(batch, check_metadata=True)
        return same and json.loads(batch.schema.metadata[_FACTS])["sha256"] == _payload_sha256(batch)
    except (*_DAMAGED, UserError) as error:
        if getattr(error, "errno", None) is not None:  # the file system's; Arrow's own have none
            raise
        return False


@lru_cache(maxsize=_MAPPED)
def _feature_map(path: Path, expected: Expected) -> np.ndarray:
    batch = _checked_shard(path, expected)
    return batch.column("feature").flatten().to_numpy(zero_copy_only=True).reshape(batch.num_rows, -1)


class ShardedTable:
    """A table to read: rows are numbered over its shards, each of which is mapped when it is first used.

    Picklable by path, so that worker processes map the same files instead of copying them.

    Args:
        paths: its shards' files, in order.
        expected: what each must be; compared when it is first used.
    """

    def __init__(self, paths: Sequence[Path], expected: Sequence[Expected]) -> None:
        self._shards = [shard for shard in zip(paths, expected) if shard[1].rows]
        self._first = next(zip(paths, expected), None)
        self.starts = np.cumsum([0] + [shard.rows for _, shard in self._shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [] if self._first is None else _checked_shard(*self._first).schema.names

    def _batches(self) -> Iterator[pa.RecordBatch]:
        return (_checked_shard(*shard) for shard in self._shards)

    def _locate(self, row: int) -> tuple[tuple[Path, Expected], int]:
        """A row's shard, and its row there."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)} rows")
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self._shards[shard], row - int(self.starts[shard])

    def path(self, row: int) -> Path:
        """File of a row's shard."""
        return self._locate(row)[0][0]

    def value(self, column: str, row: int) -> Any:
        """One cell, as a Python object."""
        shard, local = self._locate(row)
        return _checked_shard(*shard).column(column)[local].as_py()

    def numbers(self, column: str) -> np.ndarray:
        """A whole numeric or boolean column as one array."""
        parts = [batch.column(column).to_numpy(zero_copy_only=False) for batch in self._batches()]
        return np.concatenate(parts) if parts else np.empty(0)

    def strings(self, column: str) -> list[str | None]:
        """A whole text column as a list; for tables known to be small, or in passing."""
        return [value for batch in self._batches() for value in batch.column(column).to_pylist()]

    def is_set(self, column: str) -> np.ndarray:
        """Boolean ``(N,)``: whether the list in each row of ``column`` has anything in it."""
        parts = [np.diff(batch.column(column).offsets.to_numpy()) > 0 for batch in self._batches()]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    @property
    def dim(self) -> int | None:
        """Width of the feature column, or ``None`` without one."""
        return _feature_map(*self._shards[0]).shape[1] if "feature" in self.columns and self._shards else None

    def feature(self, row: int) -> np.ndarray:
        """One feature, ``(D,)`` float16, a view of the mapped file."""
        shard, local = self._locate(row)
        return _feature_map(*shard)[local]

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of ``rows`` (all by default), ``(N, D)`` float16, in that order."""
        if rows is None:
            rows = np.arange(len(self))
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows outside a table of {len(self)} rows")
        out = np.empty((rows.size, self.dim or 0), np.float16)
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        for s in np.unique(shard):
            here = shard == s
            out[here] = _feature_map(*self._shards[s])[rows[here] - self.starts[s]]
        return out


class JoinedTable:
    """Tables of the same rows, read as one; see :class:`ShardedTable` for the methods.

    Args:
        tables: the tables.
    """

    def __init__(self, *tables: ShardedTable) -> None:
        self._tables = tables
        self._table_of = {column: table for table in reversed(tables) for column in table.columns}

    def __len__(self) -> int:
        return len(self._tables[0])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._table_of)

    def _of(self, column: str) -> ShardedTable:
        if column not in self._table_of:
            raise StoreError(f"the store has no column {column!r} here; it has {', '.join(sorted(self._table_of))}")
        return self._table_of[column]

    def value(self, column: str, row: int) -> Any:
        """One cell, as a Python object."""
        return self._of(column).value(column, row)

    def numbers(self, column: str) -> np.ndarray:
        """A whole numeric or boolean column as one array."""
        return self._of(column).numbers(column)

    def strings(self, column: str) -> list[str | None]:
        """A whole text column as a list."""
        return self._of(column).strings(column)

    def is_set(self, column: str) -> np.ndarray:
        """Whether the list in each row of ``column`` has anything in it."""
        return self._of(column).is_set(column)

    @property
    def dim(self) -> int | None:
        """Width of the feature column, or ``None`` without one."""
        return self._table_of["feature"].dim if "feature" in self._table_of else None

    def feature(self, row: int) -> np.ndarray:
        """One feature, ``(D,)`` float16."""
        return self._of("feature").feature(row)

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of ``rows`` (all by default), ``(N, D)`` float16."""
        return self._of("feature").features(rows)
