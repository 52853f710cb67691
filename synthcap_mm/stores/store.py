"""Reading a store: memory-mapped tables, addressed by row."""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from synthcap_mm.files import file_sha256
from synthcap_mm.stores.errors import StoreError, StoreMissingError
from synthcap_mm.stores.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.stores.schema import SCHEMA_VERSION, tags_from_arrow
from synthcap_mm.stores.shards import shard_problem
from synthcap_mm.stores.tar_images import IMAGES_TAR, TarImages
from synthcap_mm.structures import Tag

if TYPE_CHECKING:
    from PIL.Image import Image


def read_manifest(file: Path) -> dict[str, Any]:
    """A manifest that names its schema's version.

    Raises:
        StoreError: if the file is none.
    """
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is not a store's manifest: {error!r}. Delete the folder and make it anew.") from error
    return manifest


#: How much :meth:`Store.open` looks at.
VERIFY = ("used", "size", "full")
# Shards whose checksums were compared in this process, by what would tell that they were written since.
_COMPARED: set[tuple[str, int, int, str]] = set()


def _damage(path: Path, record: dict[str, Any]) -> str | None:
    """What is wrong with a shard, its checksum compared once in a process; ``None`` if nothing."""
    file = path / record["file"]
    try:
        stat = file.stat()
    except FileNotFoundError:
        return "is missing"
    known = (str(file.resolve()), stat.st_mtime_ns, stat.st_size, record["sha256"])
    if known in _COMPARED:
        return None
    problem = shard_problem(path, record, full=True)
    if problem is None:
        _COMPARED.add(known)
    return problem


def _bad_files(path: Path, problems: list[str]) -> StoreError:
    """What is wrong with a store's files, and which command makes them anew."""
    shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
    # another pairs table is not synthesize's to mend
    curated = sum(bool(re.match(r"shard (pairs|refined)/(?!default/)", problem)) for problem in problems)
    tools = ["tools/curate.py"] if curated else []
    if curated < len(problems):
        tools.insert(0, "tools/synthesize.py (or encode_images.py)")
    return StoreError(
        f"the store {path} has {len(problems)} bad file(s): {shown}. "
        f"Running its {' and its '.join(tools)} command again makes just these anew."
    )


def check_schema(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse a store of a newer version.

    Raises:
        StoreError: saying what to update.
    """
    version = manifest["schema_version"]
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} has schema {version}, this synthcap_mm reads and writes up to {SCHEMA_VERSION}: "
            "update synthcap_mm (pip install -U synthcap_mm). Nothing was touched."
        )


class ShardedTable:
    """A table in shards, each memory-mapped; rows are numbered over all of them.

    Picklable by path, as the store is.

    Args:
        root: the store's folder.
        name: the table's name, for messages.
        records: its shards' records, in order.
    """

    def __init__(self, root: Path, name: str, records: list[dict[str, Any]]) -> None:
        self.name = name
        self._made_of = (root, name, records)
        self._batches: list[pa.RecordBatch] = []
        for record in records:
            reader = pa.ipc.open_file(pa.memory_map(str(root / record["file"])))
            if reader.num_record_batches:
                self._batches.append(reader.get_batch(0))
        self.starts = np.cumsum([0] + [b.num_rows for b in self._batches])
        self._features: list[np.ndarray] | None = None

    def __reduce__(self) -> tuple:
        # By path: pickling the batches would copy the whole table into every spawned worker.
        return type(self), self._made_of

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._batches[0].schema.names if self._batches else []

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside the table {self.name!r} of {len(self)} rows")
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def value(self, column: str, row: int) -> Any:
        """One cell, as a Python object."""
        shard, local = self._locate(row)
        return self._batches[shard].column(column)[local].as_py()

    def numbers(self, column: str) -> np.ndarray:
        """A whole numeric or boolean column as one array."""
        parts = [b.column(column).to_numpy(zero_copy_only=False) for b in self._batches]
        return np.concatenate(parts) if parts else np.empty(0)

    def strings(self, column: str) -> list[str | None]:
        """A whole text column as a list; for tables known to be small, or in passing."""
        return [value for b in self._batches for value in b.column(column).to_pylist()]

    def is_set(self, column: str) -> np.ndarray:
        """Boolean ``(N,)``: whether the list in each row of ``column`` has anything in it."""
        parts = [np.diff(b.column(column).offsets.to_numpy()) > 0 for b in self._batches]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    @property
    def _feature_maps(self) -> list[np.ndarray]:
        if self._features is None:
            self._features = [
                b.column("feature").flatten().to_numpy(zero_copy_only=True).reshape(b.num_rows, -1)
                for b in self._batches
            ]
        return self._features

    @property
    def dim(self) -> int | None:
        """Width of the feature column, or ``None`` without one."""
        return self._feature_maps[0].shape[1] if "feature" in self.columns else None

    def feature(self, row: int) -> np.ndarray:
        """One feature, ``(D,)`` float16, a view of the mapped file."""
        shard, local = self._locate(row)
        return self._feature_maps[shard][local]

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of ``rows`` (all by default), ``(N, D)`` float16, in that order."""
        if rows is None:
            return np.concatenate(self._feature_maps)
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows outside the table {self.name!r} of {len(self)} rows")
        out = np.empty((rows.size, self.dim or 0), np.float16)
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        for s in np.unique(shard):
            here = shard == s
            out[here] = self._feature_maps[s][rows[here] - self.starts[s]]
        return out


class Store:
    """A finished store, open for reading.

    Use :meth:`open`. Picklable by path, so that worker processes map the same
    files anew instead of copying them.

    Attributes:
        path: its folder.
        manifest: the content of ``manifest.json``.
    """

    def __init__(self, path: str | os.PathLike, manifest: dict[str, Any], compare: bool = True) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._compare = compare

    @classmethod
    def open(cls, path: str | os.PathLike, verify: str = "used") -> Store:
        """Open the store in the folder ``path``.

        Args:
            path: the store's folder.
            verify: ``'used'`` compares the size of every shard with the manifest, and its
                checksum when its table is first used in a process (0.8 s a GB on a core of a busy
                2-core machine, read from memory; what is used is read anyhow, the kept pictures
                excepted, which are not compared); ``'size'`` sizes only; ``'full'`` all
                checksums at once. Default ``'used'``.

        Raises:
            StoreMissingError: if there is no store, or an unfinished one.
            StoreError: if a shard (or the tokenizer) is missing or damaged, or the
                store was written by a newer version.
        """
        if verify not in VERIFY:
            raise ValueError(f"verify is one of {', '.join(map(repr, VERIFY))}, not {verify!r}")
        path = Path(path)
        file = path / "manifest.json"
        make = (
            "Make it with: python tools/synthesize.py CONFIG (photos of a validation or test set: "
            "python tools/encode_images.py CONFIG)."
        )
        if not file.is_file():
            raise StoreMissingError(f"there is no store at {path} (no manifest.json). {make}")
        manifest = read_manifest(file)
        check_schema(path, manifest)
        if not manifest.get("complete"):
            raise StoreMissingError(f"the store at {path} is not finished. {make} What is there is reused.")
        problems = []
        for table in manifest["tables"].values():
            for record in table["shards"]:
                problem = shard_problem(path, record, full=verify == "full")
                if problem:
                    problems.append(f"shard {record['file']} {problem}")
        tokenizer = manifest.get("tokenizer")
        if tokenizer:  # small: its checksum is always compared
            file = path / tokenizer["file"]
            if not file.is_file():
                problems.append(f"{tokenizer['file']} is missing")
            elif file_sha256(file) != tokenizer["sha256"]:
                problems.append(f"{tokenizer['file']} is damaged (its checksum differs)")
        if problems:
            raise _bad_files(path, problems)
        return cls(path, manifest, compare=verify == "used")

    def __reduce__(self) -> tuple:
        # What a worker process uses, its parent used before.
        return type(self), (self.path, self.manifest, False)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{name}: {sum(s['rows'] for s in t['shards'])}" for name, t in self.manifest["tables"].items()
        )
        return f"Store({str(self.path)!r}, {sizes})"

    # ---- tables
    def has(self, table: str) -> bool:
        """Whether the store has a table of this name."""
        return table in self.manifest["tables"]

    def table(self, name: str) -> ShardedTable:
        """The table ``name``, mapped.

        Raises:
            StoreError: if the store has no such table; the message lists those it has. If a shard of
                it is damaged (unless ``verify='size'``).
        """
        cache = self.__dict__.setdefault("_tables", {})
        if name not in cache:
            if not self.has(name):
                raise StoreError(
                    f"the store {self.path} has no table {name!r}; it has {', '.join(sorted(self.manifest['tables']))}"
                )
            records = self.manifest["tables"][name]["shards"]
            if self._compare:
                found = [(r["file"], _damage(self.path, r)) for r in records]
                if any(problem for _, problem in found):
                    raise _bad_files(self.path, [f"shard {file} {problem}" for file, problem in found if problem])
            cache[name] = ShardedTable(self.path, name, records)
        return cache[name]

    @property
    def captions(self) -> ShardedTable:
        """The captions table."""
        return self.table("captions")

    @property
    def images(self) -> ShardedTable:
        """The images table."""
        return self.table("images")

    def pairs(self, name: str = "default") -> ShardedTable:
        """A pairs table."""
        return self.table(f"pairs/{name}")

    def refined(self, name: str = "default") -> ShardedTable:
        """The refined features beside the pairs table ``name``.

        Raises:
            StoreError: if there are none; the message says how they are made.
        """
        if self.has(f"pairs/{name}") and not self.has(f"refined/{name}"):
            setting = "synthesis.refine=dict(...)" if name == "default" else "curation.refine=True"
            tool = "tools/synthesize.py" if name == "default" else "tools/curate.py CONFIG --replace"
            raise StoreError(
                f"the store {self.path} has no refined features beside pairs/{name}. Make them with {setting} and "
                f"{tool}, or do without: refined=False"
            )
        return self.table(f"refined/{name}")

    def tags(self, image_row: int) -> list[Tag]:
        """All stored detections of an image."""
        return tags_from_arrow(self.images.value("detections", image_row))

    def flagged(self) -> dict[str, list[str]]:
        """The images that show nothing or have no feature: key → flags (``black``, ``uniform``, ``non_finite``, …)."""
        rows = np.flatnonzero(self.images.is_set("flags"))
        return {self.images.value("key", int(r)): self.images.value("flags", int(r)) for r in rows}

    @property
    def keeps_images(self) -> bool:
        """Whether the pixels were kept."""
        return self.has(IMAGES_TAR)

    @cached_property
    def _kept(self) -> TarImages:
        if not self.keeps_images:
            raise StoreError(
                f"the store {self.path} has features only: its images were not kept. A store that is made with "
                "synthesis.keep_images=True has them"
            )
        return TarImages(self.path, self.manifest["tables"][IMAGES_TAR]["shards"])

    def image(self, image_row: int) -> Image:
        """The kept picture of an image's row, as a PIL image.

        Raises:
            StoreError: if the store kept none.
        """
        return self._kept.image(image_row)

    # ---- captions as the memory
    @property
    def kind(self) -> str:
        """``'pairs'``, or ``'photos'`` of a validation or test set."""
        return self.manifest.get("kind", "pairs")

    @property
    def encoder(self) -> dict[str, Any]:
        """Fingerprint of the encoder that made the features."""
        return self.manifest["encoder"]

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return int(self.manifest["embed_dim"])

    @cached_property
    def _heldout(self) -> np.ndarray:
        return self.captions.numbers("heldout").astype(bool)

    def caption_rows(self, split: str | None = "train") -> np.ndarray:
        """Rows of the captions of a split, int64, ascending.

        Args:
            split: ``'train'``, ``'heldout'``, or ``None`` for all. Default ``'train'``.
        """
        if split is None:
            return np.arange(len(self.captions))
        if split not in ("train", "heldout"):
            raise ValueError(f"split is 'train', 'heldout' or None, not {split!r}")
        return np.flatnonzero(self._heldout == (split == "heldout"))

    def caption_features(self, rows: np.ndarray) -> np.ndarray:
        """Caption features of ``rows``, ``(N, D)`` float16."""
        return self.captions.features(rows)

    def captions_sha256(self, split: str | None = "train") -> str:
        """Identity of the memory: hash over the captions' shards, the split and its rows."""
        digest = hashlib.sha256()
        for record in self.manifest["tables"]["captions"]["shards"]:
            digest.update(record["sha256"].encode())
        digest.update(f"{split} {len(self.caption_rows(split))}".encode())
        return digest.hexdigest()

    # ---- what belongs to it
    @property
    def tokenizer_path(self) -> Path:
        """The decoder's tokenizer that was made with the store.

        Raises:
            StoreError: if there is none.
        """
        entry = self.manifest.get("tokenizer")
        if not entry:
            raise StoreError(f"the store {self.path} has no tokenizer; its synthesis config has no 'tokenizer'")
        return self.path / entry["file"]

    def check_encoder(self, fingerprint: dict[str, Any], what: str = "this config's encoder") -> None:
        """Refuse features of another encoder.

        Args:
            fingerprint: of the encoder (or the other store) that is to be used with this one.
            what: whose fingerprint it is, for the message.

        Raises:
            StoreError: naming both encoders.
        """
        own = self.manifest["encoder"]
        if not same_encoder(own, fingerprint):
            raise StoreError(
                f"the store {self.path} was made with another encoder than {what}: "
                f"{describe_mismatch(own, fingerprint)}. Make the store anew, or use its encoder."
            )
