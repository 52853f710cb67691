"""What a store must be before it is read: it may have been downloaded, or damaged.

Three kinds of checks, by what they cost. When a store is opened: its view, the names, counts and places in it, and
that the files are there (no shard is opened). When a process first uses a shard: its columns, rows and every offset
in it, so that damage is an error and not a crash. ``synthcap-mm store FOLDER --check`` reads all bytes, and compares
checksums.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synthcap_mm.errors import UserError
from synthcap_mm.files import read_json
from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.fingerprint import checked_fingerprint, checked_fingerprints
from synthcap_mm.store.recipes import digest
from synthcap_mm.store.schema import COLUMNS, NULLABLE

#: Raised by one when a store of yesterday can no longer be read.
FORMAT = 2
#: Digits of a shard's key and of a table's identity.
KEY = 16
#: Tables by the table whose rows theirs are, one for one; ``*`` stands for the name of a pairs table.
_SAME_ROWS = {
    "texts": ("text_features", "heldout"),
    "images": ("image_features", "tags", "pictures"),
    "pairs/*": ("refined/*",),
}
#: Tables that a view of a kind has in any case.
_NEEDED = {"pairs": ("texts", "text_features", "heldout"), "photos": ("images", "image_features")}
_TABLE = re.compile(r"(pairs|refined)/[^/\x00-\x1f]+|(text|image)_features/[A-Za-z0-9_]+|(?!pairs|refined)[a-z_]+")
_SHARD = re.compile(r"(\d{5,})-([0-9a-zA-Z]+)(\.arrow|\.json)")


# ---- views
def read_view(file: Path) -> dict[str, Any]:
    """The content of a view.

    Raises:
        StoreError: if it is not what :func:`~synthcap_mm.store.store.write_view` writes; file and field are named.
    """
    check = _Checks(file)
    check((not file.is_symlink() and file.is_file()) or not file.exists(), "the whole", "is a link or no plain file")
    with _telling_to_remove(file):
        view = read_json(file)
    check(isinstance(view, dict), "the whole", "is no object")
    if view.get("format") != FORMAT:
        raise StoreError(
            f"{file} has the format {view.get('format')!r}, this synthcap_mm reads {FORMAT}: run the command that made "
            "the store again. It makes the view anew, of the shards that are there"
        )
    check(view.get("kind") in [*_NEEDED], "kind", "is neither 'pairs' nor 'photos'")
    check(isinstance(view.get("tables"), dict), "tables", "is no object")
    with _telling_to_remove(file):
        encoder = checked_fingerprint(view.get("encoder"), str(file))
    check(encoder is not None, "encoder", "is missing")
    _check_other_encoders(check, view)
    for name, entry in view["tables"].items():
        _check_entry(check, name, entry)
    _check_tables(check, view)
    check(view.get("sha256") == view_sha256(view), "sha256", "does not fit the rest: something was changed")
    return view


def _check_other_encoders(check: _Checks, view: dict[str, Any]) -> None:
    """That each table of an encoder beside the store's own has its encoder's fingerprint."""
    with _telling_to_remove(check.file):
        others = checked_fingerprints(view.get("other_encoders", {}), str(check.file))
    named = {name.partition("/")[2] for name in view["tables"] if other_encoder(name)}
    check(named == {*others}, "other_encoders", "does not fit the tables of features")


def other_encoder(table: str) -> str | None:
    """The encoder of a table of features, where it is not the store's own: ``'search'`` of ``'text_features/search'``.

    Args:
        table: its name.
    """
    kind, _, name = table.partition("/")
    return name if name and kind in ("text_features", "image_features") else None


def view_sha256(view: dict[str, Any]) -> str:
    """Checksum of all else that a view has."""
    return digest({name: value for name, value in view.items() if name != "sha256"}, 64)


def _remove(file: Path) -> str:
    return f"Remove {file.name}, and run the command that made the store again: it makes what is missing"


@contextlib.contextmanager
def _telling_to_remove(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise StoreError(f"{error}. {_remove(file)}") from None


class _Checks(NamedTuple):
    """Refuses a view for what one of its fields is."""

    file: Path

    def __call__(self, right: bool, field: str, problem: str) -> None:
        if not right:
            raise StoreError(f"{self.file}: the field {field} {problem}. {_remove(self.file)}")


def _check_entry(check: _Checks, name: str, entry: Any) -> None:
    """One table of a view: plain names, in their places, and numbers."""
    kind, where = name.partition("/")[0], f"tables.{name!a}"
    check(_TABLE.fullmatch(name) is not None and kind in (*COLUMNS, "tokenizer"), where, "is no table of a store")
    check(isinstance(entry, dict), where, "is no object")
    folder, shards, inputs = (entry.get(field) for field in ("folder", "shards", "inputs"))
    check(isinstance(folder, str) and re.fullmatch(kind + "-[0-9a-f]{12}", folder) is not None, f"{where}.folder",
          f"is {folder!a}, not like '{kind}-0123456789ab'")  # fmt: skip
    check(isinstance(inputs, list) and all(isinstance(i, str) for i in inputs), f"{where}.inputs", "is no list of text")
    check(isinstance(shards, list) and shards != [], f"{where}.shards", "is no list of shards")
    suffix, keys = ".json" if kind == "tokenizer" else ".arrow", []
    for place, shard in enumerate(shards):
        at = f"{where}.shards[{place}]"
        check(isinstance(shard, list) and [*map(type, shard)] == [str, int, str], at, "is not a name, rows, a checksum")
        found = _SHARD.fullmatch(shard[0])
        check(found is not None and shard[0] == f"{place:05d}-{found[2]}{suffix}", at,
              f"has the name {shard[0]!a}, which is not one of this place")  # fmt: skip
        check(0 <= shard[1] < 2**31, at, f"has {shard[1]} rows")
        check(re.fullmatch("[0-9a-f]{64}", shard[2]) is not None, at, "has no checksum")
        keys.append(found[2])
    check(entry.get("identity") == digest([folder, keys], KEY), f"{where}.identity", "does not fit folder and shards")


def _check_tables(check: _Checks, view: dict[str, Any]) -> None:
    """That the tables of a view fit each other."""
    tables = view["tables"]
    identities = {entry["identity"] for entry in tables.values()}
    rows = {name: sum(shard[1] for shard in entry["shards"]) for name, entry in tables.items()}
    for name in _NEEDED[view["kind"]]:
        check(name in tables, "tables", f"has no {name}")
    for name, entry in tables.items():
        check({*entry["inputs"]} <= identities, f"tables.{name}.inputs", "names tables that the view lacks")
        kind, _, part = name.partition("/")
        if kind in ("heldout", "tokenizer"):
            check(len(entry["shards"]) == 1, f"tables.{name}.shards", "has more than one shard")
        if kind == "pairs":
            there = {"texts", "image_features"} <= {*tables}
            check(there, f"tables.{name}", "is of captions or images that are not there")
        base = next((b for b, others in _SAME_ROWS.items() for o in others if o.partition("/")[0] == kind), None)
        if base is not None:
            base = base.replace("*", part)
            check(base in tables, f"tables.{name}", f"has no {base} beside it")
            check(rows[name] == rows[base], f"tables.{name}", f"has {rows[name]} rows, {base} has {rows[base]}")


def read_fingerprint(file: Path) -> dict[str, Any]:
    """The fingerprint of the encoder that made a table of features, from its ``encoder.json``.

    Raises:
        StoreError: if it is not there, or damaged.
    """
    with _telling_to_remove(file):
        found = checked_fingerprint(read_json(regular(file)), str(file))
    _Checks(file)(found is not None, "the whole", "is no encoder's fingerprint")
    return found


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a table, which the folder is named by.

    Raises:
        StoreError: if it is another's, or damaged.
    """
    file = folder / "recipe.json"
    with _telling_to_remove(file):
        recipe = read_json(regular(file))
    if not isinstance(recipe, dict) or folder.name != f"{recipe.get('table')}-{digest(recipe)}":
        raise StoreError(f"{file} is not the recipe of this folder. {_remove(file)}")
    return recipe


# ---- files
def regular_files(folder: Path) -> set[str]:
    """Names of the files in a table's folder: no links, which may lead anywhere, no pipes, which may never end."""
    _refuse_links(folder)
    try:
        with os.scandir(folder) as found:
            return {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
    except FileNotFoundError:
        return set()


def regular(file: Path) -> Path:
    """A file in a table's folder.

    Raises:
        StoreError: if it is not there, or is no plain file.
    """
    _refuse_links(file.parent)
    if file.is_symlink() or not file.is_file():
        raise StoreError(f"{file} is missing, or is no plain file. Run the command that made the store again")
    return file


def _refuse_links(folder: Path) -> None:
    if folder.is_symlink() or folder.parent.is_symlink():
        raise StoreError(f"{folder} is a link, and a store is read from its own folder only: copy it (cp -rL)")


# ---- shards
class Expected(NamedTuple):
    """What a view says of a shard.

    Attributes:
        rows: its rows.
        width: of its features. Default ``None``: any.
        captions: rows of the captions that its pairs are of. Default ``None``: not known.
        images: rows of the images that its pairs are of. Default ``None``: not known.
    """

    rows: int
    width: int | None = None
    captions: int | None = None
    images: int | None = None


def read_batch(file: pa.NativeFile, kind: str) -> pa.RecordBatch:
    """The record batch in an Arrow file of one, not yet to be used: see :func:`check_batch`.

    An Arrow file is a stream between two magic words, and read as that: what the footer says is not needed. Columns
    are compared before any is read, and compressed ones refused, since a small file could hold terabytes.

    Args:
        file: the file, at its beginning.
        kind: of the table; columns of a kind that :data:`~synthcap_mm.store.schema.COLUMNS` lacks may be any.

    Raises:
        ValueError: if it is not that; also pyarrow's errors.
    """
    if file.read(8) != b"ARROW1\0\0":
        raise ValueError("it is no Arrow file")
    messages = pa.ipc.MessageReader.open_stream(file)
    try:
        schema = pa.ipc.read_schema(messages.read_next_message())
        _check_columns(schema, kind)
        message = messages.read_next_message()
    except StopIteration:
        raise ValueError("it ends too early") from None
    if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
        raise ValueError("its rows are compressed, or there are none")
    return pa.ipc.read_record_batch(message, schema)


def check_batch(batch: pa.RecordBatch, kind: str) -> None:
    """Refuse a batch that points outside itself, or lacks values.

    Args:
        batch: of :func:`read_batch`.
        kind: of the table.

    Raises:
        ValueError: if it does; also pyarrow's errors.
    """
    batch.validate(full=True)
    for name, column in zip(batch.schema.names, batch.columns):
        if _has_nulls(column, name):
            raise ValueError(f"values of its column {name} are missing")
    if kind == "tags" and not _boxes_are_whole(batch):
        raise ValueError("a box has not four numbers")


def _check_columns(schema: pa.Schema, kind: str) -> None:
    expected = COLUMNS.get(kind)
    if expected is None:
        return
    found = {field.name: _without_width(field.type) for field in schema}
    if len(found) != len(schema) or list(found.items()) != list(expected.items()):
        raise ValueError(f"its columns are {str(schema.remove_metadata())[:200]!r}, not those of {kind}")


def _without_width(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) and kind.list_size > 0 else kind


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says so: field 3 of what field 2 of the message (a flatbuffer) points to."""

    def field(table: int, number: int) -> int:
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        inside = 4 + 2 * number < struct.unpack_from("<H", metadata, fields)[0]
        offset = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)[0] if inside else 0
        return table + offset if offset else 0

    try:
        header = field(struct.unpack_from("<I", metadata)[0], 2)
        return field(header + struct.unpack_from("<I", metadata, header)[0], 3) != 0
    except struct.error:
        return True


def _has_nulls(column: pa.Array, name: str) -> bool:
    if column.null_count and name not in NULLABLE:
        return True
    if pa.types.is_struct(column.type):
        return any(_has_nulls(column.field(i), column.type.field(i).name) for i in range(column.type.num_fields))
    nested = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    return nested and _has_nulls(column.values, f"{name}[]")


def _boxes_are_whole(batch: pa.RecordBatch) -> bool:
    boxes = batch.column("tags").values.field("box")
    return pc.all(pc.equal(pc.list_value_length(boxes), 4), min_count=0).as_py()


def check_shard(path: Path, batch: pa.RecordBatch, expected: Expected) -> None:
    """Compare a shard with what its view says of it, and its numbers with what they point to.

    Raises:
        StoreError: if they do not fit.
    """
    problem = None
    if batch.num_rows != expected.rows:
        problem = f"has {batch.num_rows} rows where the view says {expected.rows}"
    elif expected.width is not None and "feature" in batch.schema.names:
        width = batch.schema.field("feature").type.list_size
        if width != expected.width:
            problem = f"has features of {width} numbers, the encoder's have {expected.width}"
    for column, count in (("caption", expected.captions), ("image", expected.images)):
        if count is not None and not _within(batch.column(column), count):
            problem = f"has pairs of {column}s that the store has not"
    if "offset" in batch.schema.names and not _lie_in(path.with_suffix(".tar"), batch):
        problem = "names places that are not in its tar"
    if problem:
        raise StoreError(f"the shard {path} {problem}. Remove the shard, and run the command that made the store again")


def _within(column: pa.Array, count: int) -> bool:
    values = column.to_numpy()
    return not len(values) or bool(values.min() >= 0 and values.max() < count)


def _lie_in(tar: Path, batch: pa.RecordBatch) -> bool:
    size = regular(tar).stat().st_size
    offsets, sizes = batch.column("offset").to_numpy(), batch.column("size").to_numpy()
    return bool(np.all((offsets >= 0) & (offsets <= size) & (sizes >= 0) & (sizes <= size - offsets)))


def is_part(names: Iterable[str]) -> set[str]:
    """Those of the names in a table's folder that the package writes."""
    own = re.compile(r"(recipe|encoder)\.json|\d{5,}-\w+\.(arrow|json|tar)|\w+\.index|.*\.damaged|\..*~.*")
    return {name for name in names if own.fullmatch(name)}
