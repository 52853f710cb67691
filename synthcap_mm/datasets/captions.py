"""Captions to train on, from a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from synthcap_mm.datasets.caption_formats import (
    FORMATS,
    RawCaption,
    census,
    check_characters,
    listed,
    read_captions,
    read_names,
)
from synthcap_mm.registry import DATASETS


class Caption(NamedTuple):
    """A caption.

    Attributes:
        id: unique within its source.
        text: the sentence, on one line, without blanks around it.
        group: the photo or other source that it belongs to; ``None`` if unknown.
    """

    id: str
    text: str
    group: str | None


@DATASETS.register_module()
class CaptionFile:
    """Captions from a file.

    The formats, recognised by content:

    ============== ====================================================== =================== ================
    format         content                                                id                  group
    ============== ====================================================== =================== ================
    text           one caption a line                                     line number, from 1 none
    csv            header with ``caption`` (or ``text``, ``comment``);    column ``id``, else column ``image``
                   delimited by comma, tab, ``|`` or ``;`` (Flickr8k's    ``image#n``, else
                   ``image,caption``)                                     line number
    json, jsonl    list, or a line each, of ``{"caption": …}`` (or        ``id``, else index  ``image_id``,
                   ``text``)                                              or line number      ``image`` or
                                                                                              ``group``
    coco           COCO's captions json                                   annotation id       image id
    nocaps         NoCaps' captions json; its domains are splits          annotation id       image id
    karpathy       ``dataset_coco.json``, ``dataset_flickr30k.json``      ``sentid``          ``imgid``
    flickr_token   ``name.jpg#0<tab>caption``                             ``name.jpg#0``      ``name.jpg``
    ============== ====================================================== =================== ================

    Any run of white space within a caption, line breaks included, becomes one blank.

    Args:
        path (str | Path): the file; UTF-8.
        format (str): one of :data:`FORMATS`, or ``'auto'``. Defaults to ``'auto'``.
        split (str, optional): of a file with splits: Karpathy's, where ``'train'``
            takes 'train' and 'restval'; NoCaps' domains ('in-domain', 'near-domain',
            'out-domain'); csv and json with a field ``split``. ``'all'`` takes
            everything. A file with several splits wants one named, since the test
            split may be among them; NoCaps' domains are all taken by default.
        exclude_groups (list[str] | str | Path, optional): groups to leave out,
            or a file of them: text, one a line, or json, a list or lists by
            name. Names that do not occur are fine, and are counted.
        on_empty (str): what to do with captions without text: ``'error'``, or
            ``'skip'``, which says how many. Defaults to ``'error'``.

    Raises:
        ValueError: for an unknown ``format`` or ``on_empty``. The file is
            opened by :meth:`read` only.
    """

    def __init__(
        self,
        path: str | Path,
        format: str = "auto",
        split: str | None = None,
        exclude_groups: Sequence[str] | str | Path | None = None,
        on_empty: str = "error",
    ) -> None:
        if format not in ("auto", *FORMATS):
            raise ValueError(f"unknown format={format!r} for {path}; known: auto, {', '.join(FORMATS)}")
        if on_empty not in ("error", "skip"):
            raise ValueError(f"on_empty={on_empty!r} is not 'error' or 'skip'")
        self.path = Path(path)
        self.format = format
        self.split = split
        self.exclude_groups = exclude_groups
        self.on_empty = on_empty
        self._captions: list[Caption] | None = None
        self._found = ""
        self._census: dict[str | None, tuple[int, int]] = {}
        self._skipped = 0
        self._excluded = 0
        self._excluded_groups = (0, 0)

    def read(self) -> list[Caption]:
        """All captions, in the file's order; read once, then remembered.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is empty, not UTF-8, in no known format, has a
                caption without text, a repeated id or an unknown split; the
                message names the line or field.
        """
        if self._captions is None:
            self._captions = self._read()
        return list(self._captions)

    def _read(self) -> list[Caption]:
        found, raws = read_captions(self.path, self.format)
        self._census = census(raws)
        captions, empty = self._clean(self._of_split(raws, found))
        if empty:
            what = f"{len(empty)} captions of {self.path} are empty: {listed(empty)}"
            if self.on_empty == "error":
                raise ValueError(f"{what}. Remove them, or set on_empty='skip'")
            print_log(f"{what}; skipped, as on_empty='skip' says", logger="current", level=logging.WARNING)
        self._found, self._skipped = found, len(empty)
        captions = self._exclude(captions)
        if not captions:
            raise ValueError(f"no caption is left of {self.path}: {len(empty)} are empty, {self._excluded} excluded")
        return captions

    def _of_split(self, raws: list[RawCaption], found: str) -> list[RawCaption]:
        present = [split for split in self._census if split is not None]
        if self.split is None:
            if found == "karpathy":
                raise ValueError(f"{self.path} has Karpathy splits: set split='train' (or 'val', 'test', 'all')")
            if len(present) > 1 and found != "nocaps":
                raise ValueError(f"{self.path} has the splits {', '.join(present)}: set split= to one, or to 'all'")
            return raws
        if not present:
            raise ValueError(
                f"split={self.split!r} is for files with splits (Karpathy's, NoCaps' domains, a field 'split'); "
                f"{self.path} has the format {found!r} and none"
            )
        if self.split == "all":
            return raws
        wanted = ("train", "restval") if (self.split, found) == ("train", "karpathy") else (self.split,)
        chosen = [raw for raw in raws if raw.split in wanted]
        if not chosen:
            raise ValueError(f"{self.path} has no split {self.split!r}; it has {', '.join(sorted(present))}")
        return chosen

    def _clean(self, raws: list[RawCaption]) -> tuple[list[Caption], list[str]]:
        captions, empty, seen = [], [], {}
        for raw in raws:
            if raw.text is not None and not isinstance(raw.text, str):
                raise ValueError(f"{self.path}, {raw.where}: expected text, found {type(raw.text).__name__}")
            check_characters(f"{self.path}, {raw.where}", raw.text, raw.id, raw.group)
            if not raw.id:
                raise ValueError(f"{self.path}, {raw.where}: the id is empty")
            if raw.id in seen:
                raise ValueError(
                    f"{self.path}: the id {raw.id!r} is given twice, at {seen[raw.id]} and at {raw.where}; "
                    "ids must be unique (seeds and resuming depend on them)"
                )
            seen[raw.id] = raw.where
            caption = " ".join((raw.text or "").split())
            if caption:
                captions.append(Caption(raw.id, caption, raw.group))
            else:
                empty.append(raw.where)
        return captions, empty

    def _exclude(self, captions: list[Caption]) -> list[Caption]:
        if self.exclude_groups is None:
            return captions
        if isinstance(self.exclude_groups, (str, Path)):
            names = set(read_names(Path(self.exclude_groups)))
        else:
            names = {str(name) for name in self.exclude_groups}
        groups = {caption.group for caption in captions} - {None}
        if names and not groups:
            raise ValueError(f"exclude_groups is set, but {self.path} does not say which group its captions belong to")
        kept = [caption for caption in captions if caption.group not in names]
        self._excluded = len(captions) - len(kept)
        self._excluded_groups = (len(groups & names), len(names))
        if names and not groups & names:
            print_log(
                f"none of the {len(names)} exclude_groups occurs in {self.path}: they look like "
                f"{listed(sorted(names), 2)}, its groups like {listed(sorted(groups), 2)}",
                logger="current",
                level=logging.WARNING,
            )
        return kept

    def describe(self) -> str:
        """One line: the file, its format, how many captions and groups, what each split has, what was left out."""
        captions = self.read()
        groups = len({caption.group for caption in captions} - {None})
        parts = [f"{len(captions)} captions" + (f" of {groups} groups" if groups else "")]
        if self.split is not None:
            parts.append(f"split {self.split}")
        if any(split is not None for split in self._census):
            splits = (
                f"{split or 'no split'} {count} captions" + (f" of {images} groups" if images else "")
                for split, (count, images) in self._census.items()
            )
            parts.append(f"the file has {'; '.join(splits)}")
        if self._skipped:
            parts.append(f"{self._skipped} empty ones skipped")
        if self.exclude_groups is not None:
            hit, asked = self._excluded_groups
            parts.append(f"{self._excluded} excluded ({hit} of {asked} groups named occur)")
        return f"{self.path} ({self._found}): {', '.join(parts)}"

    def sha256(self) -> str:
        """Hash of what :meth:`read` returns (ids, texts and groups in order), not of the file's bytes."""
        digest = hashlib.sha256()
        for caption in self.read():
            digest.update(json.dumps(caption, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()
