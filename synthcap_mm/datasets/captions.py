"""Captions to train on, from a file."""

from __future__ import annotations

import functools
import hashlib
import html
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mmengine.logging import print_log

from synthcap_mm.datasets.caption_formats import FORMATS, RawCaption, check_characters, read_captions, read_names
from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.tokenizer import has_words
from synthcap_mm.registry import DATASETS

_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
#: What ``CaptionFile.format`` takes.
Format = Literal[("auto", *FORMATS)]


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
    text           one caption a line                                     of the sentence     none
    csv            header with ``caption`` (or ``text``, ``comment``);    column ``id``, else column ``image``
                   delimited by comma, tab, ``|`` or ``;`` (Flickr8k's    ``image#n``, else
                   ``image,caption``)                                     of the sentence
    json, jsonl    list, or a line each, of ``{"caption": …}`` (or        ``id``, else of the ``image_id``,
                   ``text``)                                              sentence            ``image`` or
                                                                                              ``group``
    coco           COCO's captions json                                   annotation id       image id
    nocaps         NoCaps' captions json; its domains are splits          annotation id       image id
    karpathy       ``dataset_coco.json``, ``dataset_flickr30k.json``      ``sentid``          ``imgid``
    flickr_token   ``name.jpg#0<tab>caption``                             ``name.jpg#0``      ``name.jpg``
    ============== ====================================================== =================== ================

    An id "of the sentence" is a hash of it: 16 hexadecimal digits of BLAKE2b, and ``-2``, ``-3``, … behind
    them where the sentence is repeated. A sentence that is inserted or deleted changes no other's id.

    Quotes of a csv are read as in RFC 4180; a row that could be read in another way too, such as one with a quote that
    would swallow the rows below it, is refused.

    Any run of white space within a caption, line breaks included, becomes one blank. A caption of more than 2,000
    characters is refused.

    Args:
        path (str | Path): the file; UTF-8.
        format (str): one of :data:`FORMATS`, or ``'auto'``. Defaults to ``'auto'``.
        split (str, optional): of a file with splits: Karpathy's, where ``'train'``
            takes 'train' and 'restval'; NoCaps' domains ('in-domain', 'near-domain',
            'out-domain'); csv and json with a field ``split``. ``'all'`` takes
            everything. Of a file with several splits one must be named, since the test
            split may be among them; only NoCaps' domains are all taken by default.
        exclude_groups (list[str] | str | Path, optional): groups to leave out,
            or a file of them: text, one a line, or json, a list or lists by
            name. Names that do not occur are counted, and are no error.
        on_empty (str): what to do with captions without words, such as ``'.'`` or an emoji, by which no caption can
            be scored: ``'error'``, or ``'skip'``, which logs how many. Defaults to ``'error'``.

    Only :meth:`read` opens the file.
    """

    def __init__(
        self,
        path: str | Path,
        format: Format = "auto",
        split: str | None = None,
        exclude_groups: Sequence[str] | str | Path | None = None,
        on_empty: Literal["error", "skip"] = "error",
    ) -> None:
        self.path = Path(path)
        self.format = format
        self.split = split
        self.exclude_groups = exclude_groups
        self.on_empty = on_empty
        self._captions: list[Caption] | None = None
        self._found = ""  # the line that describe() returns

    def read(self) -> list[Caption]:
        """All captions, in the file's order; read once, then remembered.

        Raises:
            UserError: if the file does not exist, is empty, not UTF-8, in no known format, has a
                caption without words, a repeated id or an unknown split; the message names the line or field.
        """
        if self._captions is None:
            self._captions = self._read()
        return list(self._captions)

    def _read(self) -> list[Caption]:
        found, raws = read_captions(self.path, self.format)
        written, empty = self._check(self._of_split(raws, found))
        if empty:
            self._refuse_or_log_empty(empty)
        captions, excluded = self._without_excluded(_named(written))
        if not captions:
            raise UserError(f"no caption is left of {self.path}: {len(empty)} have no words, the others are excluded")
        self._log_entities(captions)
        about = [_counts(captions)]
        about += [f"split {self.split}"] if self.split is not None else []
        about += _counts_by_split(raws)
        about += [f"{len(empty)} without words skipped"] if empty else []
        self._found = f"{self.path} ({found}): {', '.join([*about, *excluded])}"
        return captions

    def _of_split(self, raws: list[RawCaption], found: str) -> list[RawCaption]:
        present = list(dict.fromkeys(raw.split for raw in raws if raw.split is not None))
        if self.split is None:
            if found == "karpathy" or (len(present) > 1 and found != "nocaps"):
                raise UserError(f"{self.path} has the splits {', '.join(present)}: set split= to one, or to 'all'")
            return raws
        if not present:
            raise UserError(f"split={self.split!r}: {self.path} has the format {found!r} and no splits")
        if self.split == "all":
            return raws
        wanted = ("train", "restval") if (self.split, found) == ("train", "karpathy") else (self.split,)
        chosen = [raw for raw in raws if raw.split in wanted]
        if not chosen:
            raise UserError(f"{self.path} has no split {self.split!r}; it has {', '.join(sorted(present))}")
        return chosen

    def _check(self, raws: list[RawCaption]) -> tuple[list[RawCaption], list[str]]:
        """The captions with their text on one line, and the places of those without words."""
        written, empty = [], []
        seen: dict[str, str] = {}
        for raw in raws:
            where = f"{self.path}, {raw.where}"
            if raw.text is not None and not isinstance(raw.text, str):
                raise UserError(f"{where}: expected text, found {type(raw.text).__name__}")
            check_characters(where, raw.text, raw.id, raw.group)
            if raw.id == "":
                raise UserError(f"{where}: the id is empty")
            if raw.id in seen:
                raise UserError(
                    f"{where}: the id {raw.id!r} is that of {seen[raw.id]} too; ids must be unique, since seeds and "
                    "resuming depend on them"
                )
            if raw.id is not None:
                seen[raw.id] = raw.where
            text = " ".join((raw.text or "").split())
            if has_words(text):
                written.append(raw._replace(text=text))
            else:
                empty.append(raw.where)
        return written, empty

    def _refuse_or_log_empty(self, empty: list[str]) -> None:
        what = f"{len(empty)} captions of {self.path} have no words: {listed(empty)}"
        if self.on_empty == "error":
            raise UserError(f"{what}. Remove them, or set on_empty='skip'")
        print_log(f"{what}; skipped, since on_empty='skip'", logger="current", level=logging.WARNING)

    def _log_entities(self, captions: Sequence[Caption]) -> None:
        """Say how many captions have HTML's names of characters in them."""
        found = [caption.text for caption in captions if _without_entities(caption.text) != caption.text]
        if found:
            _warn_once(
                f"{len(found)} of {len(captions)} captions of {self.path} hold HTML entities, which are learnt as they "
                f"stand: {found[0]!r}. Write the characters that they stand for (Python's html.unescape gives them): "
                f"{_without_entities(found[0])!r}",
            )

    def _without_excluded(self, captions: list[Caption]) -> tuple[list[Caption], list[str]]:
        """Captions of groups that are not excluded, and a line about the others."""
        if self.exclude_groups is None:
            return captions, []
        if isinstance(self.exclude_groups, (str, Path)):
            names = set(read_names(Path(self.exclude_groups)))
        else:
            names = {str(name) for name in self.exclude_groups}
        groups = {caption.group for caption in captions} - {None}
        if names and not groups:
            raise UserError(f"exclude_groups is set, but {self.path} does not say which group its captions belong to")
        if names and not groups & names:  # otherwise a misspelt test split would silently be trained on
            print_log(
                f"none of the {len(names)} exclude_groups occurs in {self.path}: they look like "
                f"{listed(sorted(names), 2)}, its groups like {listed(sorted(groups), 2)}",
                logger="current",
                level=logging.WARNING,
            )
        kept = [caption for caption in captions if caption.group not in names]
        occur = f"{len(groups & names)} of {len(names)} groups named occur"
        return kept, [f"{len(captions) - len(kept)} excluded ({occur})"]

    def describe(self) -> str:
        """One line: the file, its format, how many captions and groups, what each split has, what was left out."""
        self.read()
        return self._found


@functools.cache
def _warn_once(message: str) -> None:
    """A process reads a file several times."""
    print_log(message, logger="current", level=logging.WARNING)


def _without_entities(text: str) -> str:
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _named(raws: Iterable[RawCaption]) -> list[Caption]:
    """Captions; those without an id get a hash of their sentence and its occurrence."""
    seen: Counter[str] = Counter()
    captions = []
    for raw in raws:
        name = raw.id
        if name is None:
            seen[raw.text] += 1
            name = hashlib.blake2b(raw.text.encode()).hexdigest()[:16]
            name += f"-{seen[raw.text]}" if seen[raw.text] > 1 else ""
        captions.append(Caption(name, raw.text, raw.group))
    return captions


def _counts(captions: Sequence[Caption | RawCaption]) -> str:
    groups = len({caption.group for caption in captions} - {None})
    return f"{len(captions)} captions" + (f" of {groups} groups" if groups else "")


def _counts_by_split(raws: Sequence[RawCaption]) -> list[str]:
    """What each split of the file has; nothing for a file without splits."""
    by_split: dict[str | None, list[RawCaption]] = {}
    for raw in raws:
        by_split.setdefault(raw.split, []).append(raw)
    if set(by_split) == {None}:
        return []
    parts = (f"{split or 'no split'} {_counts(part)}" for split, part in by_split.items())
    return [f"the file has {'; '.join(parts)}"]
