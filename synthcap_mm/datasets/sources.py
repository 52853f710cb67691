"""Where captions and photos come from.

:class:`CaptionFile` reads the captions to train on, from the usual formats.
The photo sources (:class:`PhotoFolder`, :class:`CocoPhotos`,
:class:`KarpathyPhotos`, :class:`CsvPhotos`) name real photos, open them, and
know their reference captions. They share one contract, :class:`PhotoSource`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.logging import print_log

from synthcap_mm.registry import DATASETS
from synthcap_mm.requirements import require

if TYPE_CHECKING:
    from PIL.Image import Image

#: Formats that :class:`CaptionFile` reads.
FORMATS = ("text", "csv", "json", "jsonl", "coco", "karpathy", "flickr_token")
#: Extensions that :class:`PhotoFolder` takes for photos.
PHOTO_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_CAPTION_COLUMNS = ("caption", "text", "comment", "raw", "sentence")
_ID_COLUMNS = ("id", "caption_id", "sentid")
_GROUP_COLUMNS = ("image", "image_id", "image_name", "filename", "file_name", "group")
_OTHER_COLUMNS = ("comment_number", "caption_number", "split", "score", "url")
_SHOWN = 5


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


class _Raw(NamedTuple):
    """A caption as it stands in the file."""

    where: str  # for messages: 'line 3', 'annotations[17].caption'
    id: str
    text: Any
    group: str | None


def _first(names: Iterable[str], count: int = _SHOWN) -> str:
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(str(name) for name in names[:count]) + more


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty or not UTF-8 text.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file is expected here")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path in the config (it is relative to {Path.cwd()})")
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path} is empty; it should hold captions (see CaptionFile's docstring for the formats)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the byte-order mark
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, offset) + 1
        guess = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[offset]:02x} at offset {offset} (line {line}). Convert it, e.g. "
            f"(if it is {guess}): iconv -f {guess} -t UTF-8 '{path}' > '{path.with_suffix('.utf8' + path.suffix)}'"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} holds NUL bytes: it is not a text file (or is UTF-16 without a byte-order mark)")
    return text


def _check_characters(where: str, *texts: str | None) -> None:
    """Refuse half a character, which JSON's escapes can write but no file can hold."""
    for text in texts:
        half = re.search("[\ud800-\udfff]", text or "")
        if half:
            raise ValueError(
                f"{where}: half of a surrogate pair, \\u{ord(half[0]):04x}, is no character; write the whole pair, or "
                "remove it"
            )


def _lines(text: str) -> list[str]:
    # not str.splitlines, which also cuts at U+2028 and the like
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


def _is_token_line(line: str) -> bool:
    return re.match(r"[^\t]+#\d+\t", line) is not None


def _delimiter(header: str) -> str:
    return max(",\t|;", key=header.count)


def _header(line: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except csv.Error:
        return []


def _detect(path: Path, text: str) -> str:
    """One of :data:`FORMATS`, by content; the extension only decides between csv and text.

    Raises:
        ValueError: if none fits.
    """
    start = text.lstrip()
    if start[0] in "[{":
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            try:
                json.loads(start.partition("\n")[0])
                return "jsonl"
            except json.JSONDecodeError:
                if path.suffix.lower() not in (".json", ".jsonl"):
                    return "text"
                raise ValueError(
                    f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
                ) from None
        if isinstance(data, list):
            return "json"
        if isinstance(data.get("annotations"), list):
            return "coco"
        images = data.get("images")
        if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
            return "karpathy"
        if any(name in data for name in _CAPTION_COLUMNS):
            return "jsonl"  # of one line
        raise ValueError(
            f"{path} has an unknown format: a JSON object with the fields {_first(data, 8)}. Recognised are COCO "
            "captions ('annotations'), Karpathy splits ('images' with 'sentences'), and a list of objects with "
            "'caption' or 'text'"
        )
    lines = _lines(text)
    filled = [line for line in lines if line.strip()]
    if all(_is_token_line(line) for line in filled[:100]):
        return "flickr_token"
    columns = _header(filled[0])
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    known = _CAPTION_COLUMNS + _ID_COLUMNS + _GROUP_COLUMNS + _OTHER_COLUMNS
    if len(columns) > 1 and all(c in known for c in columns) and any(c in _CAPTION_COLUMNS for c in columns):
        return "csv"
    if path.suffix.lower() in (".json", ".jsonl"):
        raise ValueError(f"{path} is not valid JSON: it starts with {start[:20]!r}")
    return "text"


def _read_plain(path: Path, text: str) -> list[_Raw]:
    return [_Raw(f"line {n}", str(n), line, None) for n, line in enumerate(_lines(text), 1)]


def _read_token(path: Path, text: str) -> list[_Raw]:
    raws = []
    for n, line in enumerate(_lines(text), 1):
        if not _is_token_line(line):
            if not line.strip():
                continue
            raise ValueError(f"{path}, line {n}: expected 'name.jpg#0<tab>caption', found {line[:60]!r}")
        name, caption = line.split("\t", 1)
        raws.append(_Raw(f"line {n}", name, caption, name.rpartition("#")[0]))
    return raws


def _read_csv(path: Path, text: str) -> list[_Raw]:
    body = text.lstrip()
    skipped = len(_lines(text[: len(text) - len(body)] + "x")) - 1  # blank lines in front of the header
    delimiter = _delimiter(_lines(body)[0])
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader)]

    def column(names: Sequence[str]) -> int | None:
        return next((columns.index(name) for name in names if name in columns), None)

    caption, id_, group = column(_CAPTION_COLUMNS), column(_ID_COLUMNS), column(_GROUP_COLUMNS)
    if caption is None:
        raise ValueError(
            f"{path}, line {1 + skipped}: no caption column among {', '.join(columns)}; name one of them 'caption' "
            "in the header (for a file of one caption a line, set format='text')"
        )
    raws: list[_Raw] = []
    seen: Counter[str] = Counter()
    line = 2 + skipped
    try:
        for row in reader:
            where, line = f"line {line}", reader.line_num + skipped + 1
            if not row:
                continue
            if len(row) != len(columns):
                hint = "quote captions that hold the delimiter" if len(row) > len(columns) else "the row is cut short"
                raise ValueError(
                    f"{path}, {where}: {len(row)} fields where the header has {len(columns)} "
                    f"({', '.join(columns)}); {hint}: {delimiter.join(row)[:80]!r}"
                )
            name = row[group].strip() if group is not None else None
            if id_ is not None:
                key = row[id_].strip()
            elif name is not None:
                key = f"{name}#{seen[name]}"  # as in Flickr8k's token file
                seen[name] += 1
            else:
                key = where.removeprefix("line ")
            raws.append(_Raw(where, key, row[caption], name))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + skipped}: not valid csv: {error}") from None
    return raws


def _from_object(path: Path, where: str, item: Any, default_id: str) -> _Raw:
    if isinstance(item, str):
        return _Raw(where, default_id, item, None)
    if not isinstance(item, dict):
        raise ValueError(f"{path}, {where}: expected an object or a string, found {type(item).__name__}")
    caption = next((name for name in _CAPTION_COLUMNS if name in item), None)
    if caption is None:
        raise ValueError(f"{path}, {where}: no field 'caption' or 'text' among {', '.join(item) or 'no fields'}")
    id_ = next((item[name] for name in _ID_COLUMNS if name in item), default_id)
    group = next((item[name] for name in _GROUP_COLUMNS if item.get(name) is not None), None)
    return _Raw(f"{where}.{caption}", str(id_), item[caption], None if group is None else str(group))


def _read_json_list(path: Path, text: str) -> list[_Raw]:
    data = json.loads(text)
    if not isinstance(data, list):
        raise ValueError(f"{path}: format 'json' is a list of captions, found a JSON {type(data).__name__}")
    return [_from_object(path, f"[{n}]", item, str(n)) for n, item in enumerate(data)]


def _read_jsonl(path: Path, text: str) -> list[_Raw]:
    raws = []
    for n, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {n}: not valid JSON: {error.msg} (column {error.colno})") from None
        raws.append(_from_object(path, f"line {n}", item, str(n)))
    return raws


def _entries(path: Path, data: Any, field: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """``data[field]``, checked: a list of objects that have ``fields``."""
    entries = data.get(field) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: no list '{field}' at the top level; is this the right kind of file?")
    for n, entry in enumerate(entries):
        missing = [name for name in fields if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise ValueError(f"{path}, {field}[{n}]: no field '{missing[0]}'")
    return entries


def _read_coco(path: Path, text: str) -> list[_Raw]:
    entries = _entries(path, json.loads(text), "annotations", ("id", "image_id"))
    if entries and "caption" not in entries[0]:
        raise ValueError(
            f"{path}, annotations[0]: no field 'caption'; is this an instances file? "
            "The captions are in captions_*.json"
        )
    return [
        _Raw(f"annotations[{n}].caption", str(entry["id"]), entry.get("caption"), str(entry["image_id"]))
        for n, entry in enumerate(entries)
    ]


def _karpathy_images(path: Path, data: Any, split: str | None) -> list[tuple[int, dict[str, Any]]]:
    """The images of a split with their index; 'train' takes 'restval' too, as the field does."""
    images = list(enumerate(_entries(path, data, "images", ("sentences", "split"))))
    for n, image in images:
        if not isinstance(image["sentences"], list):
            raise ValueError(
                f"{path}, images[{n}].sentences: expected a list of objects with 'raw', found "
                f"{type(image['sentences']).__name__}; mend or remove that image"
            )
        for m, sentence in enumerate(image["sentences"]):
            if not isinstance(sentence, dict):
                raise ValueError(
                    f"{path}, images[{n}].sentences[{m}]: expected an object with 'raw', found "
                    f'{type(sentence).__name__}; write it as {{"raw": "..."}}'
                )
    if split is None:
        return images
    splits = (split, "restval") if split == "train" else (split,)
    chosen = [(n, image) for n, image in images if image["split"] in splits]
    if not chosen:
        present = ", ".join(sorted({str(image["split"]) for _, image in images}))
        raise ValueError(f"{path} has no split {split!r}; it has {present or 'no images'}")
    return chosen


def _read_karpathy(path: Path, text: str, split: str | None) -> list[_Raw]:
    raws = []
    for n, image in _karpathy_images(path, json.loads(text), split):
        for m, sentence in enumerate(image["sentences"]):
            where = f"images[{n}].sentences[{m}].raw"
            group = str(image.get("imgid", n))
            raws.append(_Raw(where, str(sentence.get("sentid", f"{group}#{m}")), sentence.get("raw"), group))
    return raws


_READERS = {
    "text": _read_plain,
    "csv": _read_csv,
    "json": _read_json_list,
    "jsonl": _read_jsonl,
    "coco": _read_coco,
    "flickr_token": _read_token,
}


def _read_names(path: Path, split: str | None = None) -> list[str]:
    """Names from a text file (one a line) or a json file (a list, or lists by split)."""
    text = _read_text(path)
    if path.suffix.lower() != ".json":
        if split is not None:
            raise ValueError(f"split={split!r} needs a json file of lists by split; {path} is not one")
        return [line.strip() for line in _lines(text) if line.strip()]
    data = _read_json(path)
    if isinstance(data, dict):
        if split is not None:
            if split not in data:
                raise ValueError(f"{path} has no split {split!r}; it has {', '.join(data)}")
            data = data[split]
        elif all(isinstance(names, list) for names in data.values()):
            data = [name for names in data.values() for name in names]
    elif split is not None:
        raise ValueError(f"split={split!r} needs a json file of lists by split; {path} holds one list")
    if not isinstance(data, list) or not all(isinstance(name, (str, int)) for name in data):
        raise ValueError(f"{path}: expected a list of names, or an object of such lists by split")
    return [str(name) for name in data]


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
    coco           COCO's (or NoCaps') captions json                      annotation id       image id
    karpathy       ``dataset_coco.json``, ``dataset_flickr30k.json``      ``sentid``          ``imgid``
    flickr_token   ``name.jpg#0<tab>caption``                             ``name.jpg#0``      ``name.jpg``
    ============== ====================================================== =================== ================

    Any run of white space within a caption, line breaks included, becomes one blank.

    Args:
        path (str | Path): the file; UTF-8.
        format (str): one of :data:`FORMATS`, or ``'auto'``. Defaults to ``'auto'``.
        split (str, optional): Karpathy split; ``'train'`` takes 'train' and
            'restval'. Only for that format, where it must be given: the test
            split is in the same file. ``'all'`` takes everything.
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
        text = _read_text(self.path)
        found = _detect(self.path, text) if self.format == "auto" else self.format
        try:
            raws = self._raws(text, found)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path} is not valid JSON (format {found!r}): "
                f"line {error.lineno}, column {error.colno}: {error.msg}"
            ) from None
        captions, empty = self._clean(raws)
        if empty:
            what = f"{len(empty)} captions of {self.path} are empty: {_first(empty)}"
            if self.on_empty == "error":
                raise ValueError(f"{what}. Remove them, or set on_empty='skip'")
            print_log(f"{what}; skipped, as on_empty='skip' says", logger="current", level=logging.WARNING)
        self._found, self._skipped = found, len(empty)
        captions = self._exclude(captions)
        if not captions:
            raise ValueError(f"no caption is left of {self.path}: {len(empty)} are empty, {self._excluded} excluded")
        return captions

    def _raws(self, text: str, found: str) -> list[_Raw]:
        if found == "karpathy":
            if self.split is None:
                raise ValueError(f"{self.path} has Karpathy splits: set split='train' (or 'val', 'test', 'all')")
            return _read_karpathy(self.path, text, None if self.split == "all" else self.split)
        if self.split is not None:
            raise ValueError(f"split={self.split!r} is for Karpathy files; {self.path} has the format {found!r}")
        return _READERS[found](self.path, text)

    def _clean(self, raws: list[_Raw]) -> tuple[list[Caption], list[str]]:
        captions, empty, seen = [], [], {}
        for raw in raws:
            if raw.text is not None and not isinstance(raw.text, str):
                raise ValueError(f"{self.path}, {raw.where}: expected text, found {type(raw.text).__name__}")
            _check_characters(f"{self.path}, {raw.where}", raw.text, raw.id, raw.group)
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
            names = set(_read_names(Path(self.exclude_groups)))
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
                f"{_first(sorted(names), 2)}, its groups like {_first(sorted(groups), 2)}",
                logger="current",
                level=logging.WARNING,
            )
        return kept

    def describe(self) -> str:
        """One line: the file, its format, how many captions and groups, what was left out."""
        captions = self.read()
        groups = len({caption.group for caption in captions} - {None})
        parts = [f"{len(captions)} captions" + (f" of {groups} groups" if groups else "")]
        if self.split is not None:
            parts.append(f"split {self.split}")
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


class PhotoSource:
    """Photos with keys and, possibly, reference captions.

    Args:
        paths (dict[str, Path]): file of each key, in the order of the source.
        references (dict[str, list[str]], optional): reference captions by key.
        origin (str): where they come from, for messages.

    Attributes:
        keys (list[str]): what identifies each photo; unique.

    Raises:
        FileNotFoundError: if photo files are missing: how many, the first few
            and where they are expected.
        ValueError: if there is no photo.
    """

    def __init__(self, paths: dict[str, Path], references: dict[str, list[str]] | None, origin: str) -> None:
        if not paths:
            raise ValueError(f"no photos in {origin}")
        missing = [key for key, path in paths.items() if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} photos of {origin} are missing: {_first(missing)}. The first is "
                f"expected at {paths[missing[0]]}"
            )
        self.keys = list(paths)
        self._paths = paths
        self._references = references or {}
        self._origin = origin

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path:
        """File of the photo at ``index``."""
        return self._paths[self.keys[index]]

    def load(self, index: int) -> Image:
        """The photo at ``index``, RGB, turned upright as its EXIF orientation says.

        Raises:
            ValueError: if the file does not decode; the message names it.
        """
        from PIL import Image, ImageOps

        path = self.path(index)
        try:
            with Image.open(path) as photo:
                return ImageOps.exif_transpose(photo).convert("RGB")
        except FileNotFoundError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError among them
            raise ValueError(f"the photo {path} does not decode: {type(error).__name__}: {error}") from error

    def references(self, index: int) -> list[str]:
        """Reference captions of the photo at ``index``; empty if there are none."""
        return list(self._references.get(self.keys[index], []))

    def sha256(self) -> str:
        """Hash of keys, file sizes and references, in order; the pixels are not read."""
        digest = hashlib.sha256()
        for index, key in enumerate(self.keys):
            row = [key, self.path(index).stat().st_size, self.references(index)]
            digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: where from, how many photos and references."""
        count = sum(len(self.references(index)) for index in range(len(self)))
        return f"{self._origin}: {len(self)} photos, {count} references"


def _clean_references(origin: str, key: str, captions: Iterable[Any]) -> list[str]:
    cleaned = []
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{origin}: a reference caption of {key} is empty or no text: {caption!r}")
        _check_characters(f"{origin}: a reference caption of {key!a}", caption)
        cleaned.append(" ".join(caption.split()))
    return cleaned


def _choose(
    paths: dict[str, Path], keys: Sequence[str] | str | Path | None, split: str | None, origin: str
) -> dict[str, Path]:
    """``paths`` of ``keys`` only, in the order of ``keys``."""
    if keys is None:
        if split is not None:
            raise ValueError(f"split={split!r} needs keys=, a json file of lists by split")
        return paths
    where = "keys"
    if isinstance(keys, (str, Path)):
        where = str(keys)
        keys = _read_names(Path(keys), split)
    unknown = [key for key in keys if key not in paths]
    if unknown:
        raise ValueError(
            f"{len(unknown)} names of {where} are not in {origin}: {_first(unknown)}; its names look like "
            f"{_first(paths, 2)}"
        )
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise ValueError(f"{where} names {len(repeated)} photos more than once: {_first(repeated)}")
    return {key: paths[key] for key in keys}


@DATASETS.register_module()
class PhotoFolder(PhotoSource):
    """All photos under a folder; key = path relative to it, with '/'; sorted by key.

    Args:
        root (str | Path): the folder, searched recursively; hidden files and folders are left out.
        extensions (Sequence[str]): lower-case extensions. Defaults to :data:`PHOTO_EXTENSIONS`.
        references (dict[str, list[str]] | str | Path, optional): reference
            captions by key, or a json file of such a mapping.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it holds no photo, or references name photos that are not there.
    """

    def __init__(
        self,
        root: str | Path,
        extensions: Sequence[str] = PHOTO_EXTENSIONS,
        references: dict[str, list[str]] | str | Path | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"the photo folder {root} does not exist (it is relative to {Path.cwd()})")
        wanted = {extension.lower() for extension in extensions}
        paths = {}
        for path in root.rglob("*"):
            relative = path.relative_to(root)
            hidden = any(part.startswith(".") for part in relative.parts)
            if path.suffix.lower() in wanted and not hidden and path.is_file():
                paths[relative.as_posix()] = path
        if not paths:
            raise ValueError(f"no photo in {root} (looked for {', '.join(sorted(wanted))}, in subfolders too)")
        where = "references"
        if isinstance(references, (str, Path)):
            where = str(references)
            references = _read_json(Path(references))
            if not isinstance(references, dict):
                raise ValueError(f"{where}: expected an object {{file name: [captions]}}")
        references = references or {}
        unknown = [key for key in references if key not in paths]
        if unknown:
            raise ValueError(f"{len(unknown)} names of {where} are not in {root}: {_first(unknown)}")
        cleaned = {}
        for key, captions in references.items():
            if isinstance(captions, str):
                raise ValueError(f"{where}: the references of {key} are one string; a list of strings is expected")
            if not isinstance(captions, (list, tuple)):
                raise ValueError(
                    f"{where}: the references of {key} are of type {type(captions).__name__}; give a list of strings"
                )
            cleaned[key] = _clean_references(where, key, captions)
        super().__init__({key: paths[key] for key in sorted(paths)}, cleaned, str(root))


@DATASETS.register_module()
class CocoPhotos(PhotoSource):
    """Photos of a COCO-format captions json; key = file name; all its captions are references.

    Args:
        ann_file (str | Path): COCO's captions json (or NoCaps').
        image_root (str | Path): folder of the photos.
        keys (Sequence[str] | str | Path, optional): use these file names only,
            in this order; or a text or json file of names.
        split (str, optional): the list to take of a json file ``keys`` with lists by split.

    Raises:
        FileNotFoundError: if the json or photos are missing.
        ValueError: for a damaged json, repeated ids or names, captions of
            unknown images, or unknown ``keys``.
    """

    def __init__(
        self,
        ann_file: str | Path,
        image_root: str | Path,
        keys: Sequence[str] | str | Path | None = None,
        split: str | None = None,
    ) -> None:
        ann_file, image_root = Path(ann_file), Path(image_root)
        data = _read_json(ann_file)
        images = _entries(ann_file, data, "images", ("id", "file_name"))
        for n, image in enumerate(images):
            if not isinstance(image["file_name"], str):
                raise ValueError(
                    f"{ann_file}, images[{n}].file_name: expected text, found {image['file_name']!r}; quote it"
                )
            _check_characters(f"{ann_file}, images[{n}].file_name", image["file_name"])
        annotations = _entries(ann_file, data, "annotations", ("id", "image_id", "caption"))
        for field, values in (
            ("images[].id", [image["id"] for image in images]),
            ("images[].file_name", [image["file_name"] for image in images]),
            ("annotations[].id", [annotation["id"] for annotation in annotations]),
        ):
            repeated = [value for value, count in Counter(values).items() if count > 1]
            if repeated:
                raise ValueError(f"{ann_file}: {len(repeated)} {field} occur more than once: {_first(repeated)}")
        known = {image["id"] for image in images}
        orphans = [annotation["id"] for annotation in annotations if annotation["image_id"] not in known]
        if orphans:
            raise ValueError(
                f"{ann_file}: {len(orphans)} captions are of unknown images: annotation ids {_first(orphans)}"
            )
        coco_class = require("pycocotools.coco", purpose="CocoPhotos").COCO
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            coco = coco_class()
            coco.dataset = data
            coco.createIndex()
        references = {
            image["file_name"]: _clean_references(
                str(ann_file), image["file_name"], (a["caption"] for a in coco.imgToAnns.get(image["id"], []))
            )
            for image in images
        }
        paths = {image["file_name"]: image_root / image["file_name"] for image in images}
        super().__init__(_choose(paths, keys, split, str(ann_file)), references, str(ann_file))


@DATASETS.register_module()
class KarpathyPhotos(PhotoSource):
    """Photos of a Karpathy split; key = file name; its raw sentences are references.

    Args:
        ann_file (str | Path): ``dataset_coco.json`` or ``dataset_flickr30k.json``.
        image_root (str | Path): folder of the photos; COCO's ``filepath``
            (``val2014``) below it is used if it is there.
        split (str): 'train' (which takes 'restval' too), 'val' or 'test'.

    Raises:
        FileNotFoundError: if the json or photos are missing.
        ValueError: for a damaged json, repeated names or an unknown split.
    """

    def __init__(self, ann_file: str | Path, image_root: str | Path, split: str) -> None:
        ann_file, image_root = Path(ann_file), Path(image_root)
        paths: dict[str, Path] = {}
        references = {}
        for n, image in _karpathy_images(ann_file, _read_json(ann_file), split):
            name = image.get("filename")
            if not name:
                raise ValueError(f"{ann_file}, images[{n}]: no field 'filename'")
            if name in paths:
                raise ValueError(f"{ann_file}, images[{n}]: the file name {name!r} occurs more than once")
            nested = image_root / image.get("filepath", "") / name
            paths[name] = nested if nested.is_file() or not (image_root / name).is_file() else image_root / name
            references[name] = _clean_references(str(ann_file), name, (s.get("raw") for s in image["sentences"]))
        super().__init__(paths, references, f"{ann_file} ({split})")


@DATASETS.register_module()
class CsvPhotos(PhotoSource):
    """Photos named in a csv of captions, as Flickr8k's ``image,caption``; key = file name.

    Args:
        csv (str | Path): the file; see :class:`CaptionFile` for its columns.
        image_root (str | Path): folder of the photos.
        keys (Sequence[str] | str | Path, optional): use these file names only,
            in this order; or a text or json file of names.
        split (str, optional): the list to take of a json file ``keys`` with lists by split.

    Raises:
        FileNotFoundError: if the csv or photos are missing.
        ValueError: for a damaged csv, no image column, or unknown ``keys``.
    """

    def __init__(
        self,
        csv: str | Path,
        image_root: str | Path,
        keys: Sequence[str] | str | Path | None = None,
        split: str | None = None,
    ) -> None:
        references: dict[str, list[str]] = {}
        for caption in CaptionFile(csv, format="csv").read():
            if caption.group is None:
                raise ValueError(f"{csv}: no image column; name it 'image' in the header")
            references.setdefault(caption.group, []).append(caption.text)
        paths = {key: Path(image_root) / key for key in references}
        super().__init__(_choose(paths, keys, split, str(csv)), references, str(csv))


@DATASETS.register_module()
class ConcatPhotos(PhotoSource):
    """Several photo sources as one, e.g. the folders that a retrieval pool lies in.

    Args:
        sources (Sequence[dict]): configs of photo sources, in this order.
        with_references (bool): keep the reference captions. ``False`` for a
            pool of unlabelled photos, whatever the sources know of them. Defaults to ``True``.

    Raises:
        ValueError: if there is no source, or the same key occurs in two; the
            message names keys and sources.
    """

    def __init__(self, sources: Sequence[dict[str, Any]], with_references: bool = True) -> None:
        parts: list[PhotoSource] = [DATASETS.build(source) for source in sources]
        paths: dict[str, Path] = {}
        references: dict[str, list[str]] = {}
        owner: dict[str, str] = {}
        for part in parts:
            repeated = [key for key in part.keys if key in owner]
            if repeated:
                raise ValueError(
                    f"{len(repeated)} photos of {part._origin} have keys that {owner[repeated[0]]} has too: "
                    f"{_first(repeated)}; keys must be unique over all sources"
                )
            for index, key in enumerate(part.keys):
                owner[key] = part._origin
                paths[key] = part.path(index)
                if with_references:
                    references[key] = part.references(index)
        super().__init__(paths, references, " + ".join(part._origin for part in parts) or "ConcatPhotos(sources=[])")
