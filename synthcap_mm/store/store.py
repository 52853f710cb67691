"""A store to read: a view of tables, ``store.json``, and what training and evaluation ask of it.

The view names the table that is meant by each name, with its shards in order. It is written when all of them are
there, and replaced by renaming, so that a process that opened a store goes on with what it opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthcap_mm.errors import listed
from synthcap_mm.files import file_sha256, write_json
from synthcap_mm.store.checking import (
    FORMAT,
    Expected,
    other_encoder,
    read_recipe,
    read_view,
    regular_files,
    view_sha256,
)
from synthcap_mm.store.errors import StoreError
from synthcap_mm.store.fingerprint import describe_mismatch, same_encoder
from synthcap_mm.store.pictures import decode_picture
from synthcap_mm.store.recipes import differences
from synthcap_mm.store.schema import tags_from_arrow
from synthcap_mm.store.tables import JoinedTable, ShardedTable, Table, rows_and_sha256
from synthcap_mm.structures import Tag

if TYPE_CHECKING:
    from PIL.Image import Image

#: The whole store's view; a view of its first N captions is ``firstN.json``.
VIEW = "store.json"


def view_file(path: str | os.PathLike, limit: int | None = None) -> Path:
    """The view that a store's path names: a folder's ``store.json``, or the file itself.

    Args:
        path: a store's folder, or a view in it.
        limit: of the first captions only. Default ``None``: the whole.
    """
    path = Path(path)
    if path.suffix == ".json":
        return path
    return path / (VIEW if limit is None else f"first{limit}.json")


def write_view(
    file: Path,
    kind: str,
    tables: Mapping[str, Table],
    encoder: Mapping[str, Any],
    other_encoders: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write a view of tables that are whole.

    Tables that are in the view already under other names (curated pairs) stay, unless what they were made of is
    no longer what the view has.

    Args:
        file: the view.
        kind: ``'pairs'`` or ``'photos'``.
        tables: name → table.
        encoder: fingerprint of the encoder of the features.
        other_encoders: name → fingerprint of those of the tables ``text_features/NAME`` and ``image_features/NAME``.
            Default: there are none.

    Returns:
        Names of the tables that went.

    Raises:
        StoreError: if a shard got lost meanwhile.
    """
    entries = {name: _entry(table) for name, table in tables.items()}
    try:
        old = read_view(file)
    except (FileNotFoundError, StoreError):
        old = {"tables": {}}
    added = {name: entry for name, entry in old["tables"].items() if _is_added(name)}
    kept = _without_stale({**entries, **added})
    others = {"other_encoders": {name: dict(one) for name, one in other_encoders.items()}} if other_encoders else {}
    _write(file, old, {"format": FORMAT, "kind": kind, "encoder": dict(encoder), **others, "tables": kept})
    return sorted({*added} - {*kept})


def add_to_view(path: str | os.PathLike, tables: Mapping[str, Table]) -> None:
    """Add tables that are whole to a view, or replace those of their names; what was made of those goes.

    Args:
        path: the store's folder, or the view.
        tables: name → table.

    Raises:
        StoreError: if the store has changed meanwhile, so that it has not what they were made of.
    """
    file = view_file(path)
    view = read_view(file)
    entries = _without_stale({**view["tables"], **{name: _entry(table) for name, table in tables.items()}})
    if not {*tables} <= {*entries}:
        raise StoreError(f"the store {path} has changed while {', '.join(tables)} was made: run the command again")
    _write(file, view, {**view, "tables": entries})


def _write(file: Path, old: dict[str, Any], view: dict[str, Any]) -> None:
    view = {**view, "sha256": view_sha256(view)}
    if view != old:
        write_json(file, view)


def _is_added(name: str) -> bool:
    """Whether a table is not of the command that makes the store, but of curation."""
    return name.partition("/")[0] in ("pairs", "refined") and not name.endswith("/default")


def _without_stale(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries whose inputs are among them."""
    while True:
        identities = {entry["identity"] for entry in entries.values()}
        kept = {name: entry for name, entry in entries.items() if {*entry["inputs"]} <= identities}
        if len(kept) == len(entries):
            return kept
        entries = kept


def _entry(table: Table) -> dict[str, Any]:
    return {
        "folder": table.folder.name,
        "identity": table.identity,
        "inputs": [table.identity for table in table.inputs],
        "shards": [[name, *rows_and_sha256(table.folder / name)] for name in table.names],
    }


class Store:
    """A store, open for reading.

    Use :meth:`open`. Picklable by path, so that worker processes map the same
    files anew instead of copying them.

    Attributes:
        path: its view, or the folder where that is ``store.json``.
        folder: its folder.
        view: the content of the view.
    """

    def __init__(self, path: str | os.PathLike, view: dict[str, Any]) -> None:
        self.path = Path(path)
        self.folder = view_file(path).parent
        self.view = view

    @classmethod
    def open(cls, path: str | os.PathLike) -> Store:
        """Open a store.

        All shards must be there, but for curated ones; what is in them is looked at when it is used.

        Args:
            path: the store's folder, or a view in it (``STORE/first100.json``).

        Raises:
            StoreError: if there is no store, it lacks a shard, was written in another format, or is damaged.
        """
        file = view_file(path)
        if not file.is_file():
            raise StoreError(
                f"there is no store at {path} (no {file.name}), or it is not finished. The command `synthesize` makes "
                "it, or `encode-images` where it is of a validation or test set; what is there is reused."
            )
        store = cls(path, read_view(file))
        for name in store.tables:
            if not _is_added(name):  # those are looked at when they are used, so that curating again can mend them
                store._check_files(name)
        return store

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.view)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(self.table(name))}" for name in self.view["tables"] if name != "tokenizer")
        return f"Store({str(self.path)!r}, {sizes})"

    # ---- tables
    @property
    def tables(self) -> list[str]:
        """Names of the tables."""
        return list(self.view["tables"])

    def has(self, table: str) -> bool:
        """Whether the store has a table of this name."""
        return table in self.view["tables"]

    def _table_entry(self, name: str) -> dict[str, Any]:
        if not self.has(name):
            raise StoreError(f"the store {self.path} has no table {name!r}; it has {', '.join(sorted(self.tables))}")
        return self.view["tables"][name]

    def _check_files(self, name: str) -> None:
        there = regular_files(self._folder(name))
        lost = [path for path in self.paths(name) if path.name not in there]
        if lost:
            raise StoreError(
                f"the store {self.path} lacks {len(lost)} file(s) of its table {name}, the first: {lost[0]}. Run the "
                "command that made it again: it makes just these. (Links do not count: copy such a store with cp -rL.)"
            )

    def unequal(self) -> Iterator[Path]:
        """Shards that are there, and are not what the view says; all of them are opened."""
        for name in self.tables:
            there = regular_files(self._folder(name))
            for path, shard, expected in zip(self.paths(name), self._table_entry(name)["shards"], self._expected(name)):
                if path.name not in there:
                    continue
                try:
                    if path.suffix == ".arrow":
                        ShardedTable([path], [expected]).columns  # noqa: B018 - compares them
                    if rows_and_sha256(path)[1] != shard[2]:
                        yield path
                except StoreError:
                    yield path

    def paths(self, name: str) -> list[Path]:
        """Files of a table's shards."""
        return [self._folder(name) / shard[0] for shard in self._table_entry(name)["shards"]]

    def _folder(self, name: str) -> Path:
        return self.folder / "tables" / self._table_entry(name)["folder"]

    def _expected(self, name: str) -> Iterator[Expected]:
        """What the shards of a table must be."""
        captions, images = (
            sum(shard[1] for shard in self.view["tables"].get(other, {"shards": []})["shards"])
            if name.startswith("pairs/")
            else None
            for other in ("texts", "images")
        )
        for shard in self._table_entry(name)["shards"]:
            yield Expected(shard[1], self.width_of(other_encoder(name)), captions, images)

    def table(self, name: str) -> ShardedTable:
        """The table ``name``.

        Raises:
            StoreError: if the store has no such table (the message lists those it has), or lacks files of it.
        """
        cache = self.__dict__.setdefault("_tables", {})
        if name not in cache:
            self._check_files(name)
            cache[name] = ShardedTable(self.paths(name), list(self._expected(name)))
        return cache[name]

    def recipe(self, name: str) -> dict[str, Any]:
        """How a table was made."""
        return read_recipe(self._folder(name))

    def opened(self, name: str) -> Table:
        """A table as those who make others of it take it."""
        entry = self._table_entry(name)
        names = [shard[0] for shard in entry["shards"]]
        keys = [Path(shard).stem.partition("-")[2] for shard in names]
        return Table(self.folder, name.partition("/")[0], self.recipe(name), keys, suffix=Path(names[0]).suffix)

    def identity(self, name: str) -> str:
        """Hash of all that a table is."""
        return self._table_entry(name)["identity"]

    @cached_property
    def captions(self) -> JoinedTable:
        """Captions: id, text, group, and their features (test sets' references have none)."""
        names = [name for name in ("texts", "text_features") if name == "texts" or self.has(name)]
        return JoinedTable(*(self.table(name) for name in names))

    @cached_property
    def images(self) -> JoinedTable:
        """Images: key, feature, flags, and domain where there are domains."""
        return JoinedTable(self.table("images"), self.table("image_features"))

    def text_features(self, encoder: str | None = None) -> ShardedTable:
        """Features of the captions by an encoder.

        Args:
            encoder: its name in ``synthesis.other_encoders``. Default ``None``: the store's own.

        Raises:
            StoreError: if the store has none by that encoder; the message lists those that it has.
        """
        return self.table(self.features_name("text", encoder))

    def image_features(self, encoder: str | None = None) -> ShardedTable:
        """Features of the images by an encoder; see :meth:`text_features`."""
        return self.table(self.features_name("image", encoder))

    def features_name(self, kind: str, encoder: str | None) -> str:
        """Name of the table of features by an encoder.

        Args:
            kind: ``'text'`` or ``'image'``.
            encoder: see :meth:`text_features`.

        Raises:
            StoreError: see :meth:`text_features`.
        """
        if encoder is None:
            return f"{kind}_features"
        if encoder not in self.other_encoders:
            raise StoreError(
                f"the store {self.path} has no features of an encoder {encoder!r}; it has those of its own "
                f"({self.encoder['name']})"
                + (f" and of {listed(self.other_encoders)}" if self.other_encoders else "")
                + f". Name it in synthesis.other_encoders ({encoder}=dict(type=...)) and make the store again"
            )
        return f"{kind}_features/{encoder}"

    def pairs(self, name: str = "default") -> ShardedTable:
        """A pairs table."""
        return self.table(f"pairs/{name}")

    def refined(self, name: str = "default") -> ShardedTable:
        """The refined features beside the pairs table ``name``.

        Raises:
            StoreError: if there are none; the message says how they are made.
        """
        if self.has(f"pairs/{name}") and not self.has(f"refined/{name}"):
            command, setting = ("synthesize", "synthesis") if name == "default" else ("curate", "curation")
            raise StoreError(
                f"the store {self.path} has no refined features beside pairs/{name}. Make them with {setting}.refine "
                f"and the command `{command}`, or do without: refined=False"
            )
        return self.table(f"refined/{name}")

    def tags(self, image_row: int) -> list[Tag]:
        """All stored detections of an image; none where the store has no tags."""
        return tags_from_arrow(self.table("tags").value("tags", image_row)) if self.has("tags") else []

    @cached_property
    def is_flagged(self) -> np.ndarray:
        """Boolean ``(N,)``: which images show nothing, or have no feature by one of the encoders."""
        return np.logical_or.reduce([table.is_set("flags") for table in self._tables_of_images()])

    def _tables_of_images(self) -> list[ShardedTable]:
        return [self.image_features(encoder) for encoder in (None, *self.other_encoders)]

    def flags(self, image_row: int) -> list[str]:
        """What is wrong with an image: ``black``, ``uniform``, ``non_finite``, …"""
        found = [flag for table in self._tables_of_images() for flag in table.value("flags", image_row)]
        return list(dict.fromkeys(found))

    def flagged(self) -> dict[str, list[str]]:
        """The images that :attr:`is_flagged` is true of: key → :meth:`flags`."""
        return {self.images.value("key", int(row)): self.flags(int(row)) for row in np.flatnonzero(self.is_flagged)}

    @property
    def keeps_images(self) -> bool:
        """Whether the pixels were kept."""
        return self.has("pictures")

    def image(self, image_row: int) -> Image:
        """The kept picture of an image's row, as a PIL image.

        Raises:
            StoreError: if the store kept none.
        """
        if not self.keeps_images:
            raise StoreError(
                f"the store {self.path} has features only: its images were not kept. A store that is made with "
                "synthesis.keep_images=True has them"
            )
        return read_picture(self.table("pictures"), image_row)

    # ---- what it is of
    @property
    def kind(self) -> str:
        """``'pairs'``, or ``'photos'`` of a validation or test set."""
        return self.view["kind"]

    @property
    def encoder(self) -> dict[str, Any]:
        """Fingerprint of the encoder that made the features."""
        return self.view["encoder"]

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return self.width_of(None)

    def width_of(self, encoder: str | None) -> int:
        """Width of the features by an encoder; see :meth:`text_features`."""
        return len(self.fingerprint_of(encoder)["text"])

    @property
    def other_encoders(self) -> dict[str, dict[str, Any]]:
        """Fingerprints of the encoders beside the store's own, by name."""
        return self.view.get("other_encoders", {})

    def fingerprint_of(self, encoder: str | None) -> dict[str, Any]:
        """Fingerprint of an encoder.

        Raises:
            StoreError: see :meth:`text_features`.
        """
        self.features_name("text", encoder)
        return self.encoder if encoder is None else self.other_encoders[encoder]

    def check_encoder(
        self, fingerprint: dict[str, Any], what: str = "this config's encoder", name: str | None = None
    ) -> None:
        """Refuse features of another encoder.

        Args:
            fingerprint: of the encoder (or the other store) that is to be used with this one.
            what: whose fingerprint it is, for the message.
            name: of the encoder in this store. Default ``None``: its own.

        Raises:
            StoreError: naming both encoders.
        """
        own = self.fingerprint_of(name)
        if not same_encoder(own, fingerprint):
            raise StoreError(
                f"the store {self.path} was made with another encoder than {what}: "
                f"{describe_mismatch(own, fingerprint)}. Make the store anew, or use its encoder."
            )

    def check_recipes(self, recipes: Mapping[str, dict[str, Any]]) -> None:
        """Refuse a store whose tables were made by other recipes.

        Args:
            recipes: name → recipe as a config has it; other tables of the store may be as they are.

        Raises:
            StoreError: naming what differs.
        """
        lines = [
            f"{name}: {line}"
            for name, recipe in recipes.items()
            for line in (differences(self.recipe(name), recipe) if self.has(name) else ["the store has none"])
        ]
        if lines:
            raise StoreError(
                f"the store {self.path} was made with other settings than the config's (store → config):\n  "
                + "\n  ".join(dict.fromkeys(lines))
                + "\nRun `synthesize` (for curated pairs `curate`) again, which makes what differs, or give the config "
                "another store."
            )

    # ---- captions as the memory
    @cached_property
    def _heldout(self) -> np.ndarray:
        return self.table("heldout").numbers("heldout").astype(bool)

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

    def caption_features(self, rows: np.ndarray, encoder: str | None = None) -> np.ndarray:
        """Caption features of ``rows``, ``(N, D)`` float16.

        Args:
            rows: the captions.
            encoder: see :meth:`text_features`. Default ``None``.

        Raises:
            StoreError: see :meth:`text_features`.
        """
        return self.text_features(encoder).features(rows)

    def captions_sha256(self, split: str | None = "train") -> str:
        """Identity of the memory: hash over captions, their features, and the split."""
        parts = [self.identity("texts"), self.identity("text_features")]
        if split is not None:
            parts += [self.view["tables"]["heldout"]["shards"][0][2], split]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def tokenizer_path(self) -> Path:
        """The decoder's tokenizer that was made with the store.

        Raises:
            StoreError: if there is none, or it is damaged.
        """
        if not self.has("tokenizer"):
            raise StoreError(f"the store {self.path} has no tokenizer: its config's synthesis.tokenizer is None")
        path, sha256 = self.paths("tokenizer")[0], self._table_entry("tokenizer")["shards"][0][2]
        if file_sha256(path) != sha256:
            raise StoreError(f"{path} is damaged: remove it, and run `synthesize` again, which makes it anew")
        return path


def read_picture(pictures: ShardedTable, row: int) -> Image:
    """A kept picture.

    Args:
        pictures: a pictures table.
        row: the image's row.
    """
    with open(pictures.path(row).with_suffix(".tar"), "rb") as file:
        file.seek(pictures.value("offset", row))
        return decode_picture(file.read(pictures.value("size", row)))
