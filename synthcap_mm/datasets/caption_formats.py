"""The formats that captions come in: recognised by content, read, and rejected with the line that is not understood."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Formats that :class:`CaptionFile` reads.
FORMATS = ("text", "csv", "json", "jsonl", "coco", "karpathy", "flickr_token", "nocaps")

_CAPTION_COLUMNS = ("caption", "text", "comment", "raw", "sentence", "prompt")
_ID_COLUMNS = ("id", "caption_id", "sentid")
_GROUP_COLUMNS = ("image", "image_id", "image_name", "filename", "file_name", "group")
_OTHER_COLUMNS = ("comment_number", "caption_number", "split", "score", "url")
_SPLIT_COLUMN = "split"
_SHOWN = 5
# What a download often is instead of what was wanted.
_NOT_CAPTIONS = (
    (b"<!doctype html", "a web page (a download that failed?)"),
    (b"<html", "a web page (a download that failed?)"),
    (b"version https://git-lfs", "a pointer of Git LFS (fetch the file itself: git lfs pull)"),
    (b"pk\x03\x04", "a zip archive (unpack it first)"),
    (b"\x1f\x8b", "a gzip archive (unpack it first)"),
    (b"\xff\xd8\xff", "a JPEG photo"),
    (b"\x89png", "a PNG picture"),
)


class RawCaption(NamedTuple):
    """A caption as it stands in the file.

    Attributes:
        where: for messages: 'line 3', 'annotations[17].caption'.
        id: given by the file, or its place in it.
        text: not checked yet.
        group: the photo that it belongs to; ``None`` if the file does not say.
        split: Karpathy's split, NoCaps' domain, or a column ``split``; ``None`` if the file has none.
    """

    where: str
    id: str
    text: Any
    group: str | None
    split: str | None = None


def listed(names: Iterable[str], count: int = _SHOWN) -> str:
    """The first few names for a message, and how many there are."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(str(name) for name in names[:count]) + more


def read_text(path: Path) -> str:
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
    kind = next((kind for start, kind in _NOT_CAPTIONS if data.lstrip()[:40].lower().startswith(start)), None)
    if kind is not None:
        raise ValueError(f"{path}, line 1: this is {kind}, not a file of captions")
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


def check_characters(where: str, *texts: str | None) -> None:
    """Refuse half a character, which JSON's escapes can write but no file can hold."""
    for text in texts:
        half = re.search("[\ud800-\udfff]", text or "")
        if half:
            raise ValueError(
                f"{where}: half of a surrogate pair, \\u{ord(half[0]):04x}, is no character; write the whole pair, or "
                "remove it"
            )


def lines_of(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    # not str.splitlines, which also cuts at U+2028 and the like
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json(path: Path) -> Any:
    """What a json file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON; the message names line and column.
    """
    text = read_text(path)
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


def recognise(path: Path, text: str) -> str:
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
        images = data.get("images")
        image = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
        if "open_images_id" in image:
            return "nocaps"
        if isinstance(data.get("annotations"), list):
            return "coco"
        if "sentences" in image:
            return "karpathy"
        if image:
            raise ValueError(
                f"{path} names {len(images)} images, but holds no captions: neither 'annotations' (COCO's, NoCaps') "
                "nor 'sentences' within the images (Karpathy's). An image info file has photos to caption, no text to "
                "train on"
            )
        if any(name in data for name in _CAPTION_COLUMNS):
            return "jsonl"  # of one line
        raise ValueError(
            f"{path} has an unknown format: a JSON object with the fields {listed(data, 8)}. Recognised are COCO "
            "captions ('annotations'), Karpathy splits ('images' with 'sentences'), NoCaps ('open_images_id'), "
            "and a list of objects with 'caption' or 'text'"
        )
    lines = lines_of(text)
    filled = [line for line in lines if line.strip()]
    # Most of them: a damaged line is then named by the reader, and not taken for a caption.
    if sum(_is_token_line(line) for line in filled[:100]) * 2 > len(filled[:100]):
        return "flickr_token"
    columns = _header(filled[0])
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    known = _CAPTION_COLUMNS + _ID_COLUMNS + _GROUP_COLUMNS + _OTHER_COLUMNS
    if len(columns) > 1 and all(c in known for c in columns) and any(c in _CAPTION_COLUMNS for c in columns):
        return "csv"
    if path.suffix.lower() in (".json", ".jsonl"):
        raise ValueError(f"{path} is not valid JSON: it starts with {start[:20]!r}")
    if all("\t" in line.strip() for line in filled[:100]):
        raise ValueError(
            f"{path}, line 1: columns divided by tabs, without a header that names one of them 'caption': "
            f"{filled[0][:60]!r}. Add the header, or set format='text' if the lines are captions as they are"
        )
    return "text"


def _read_plain(path: Path, text: str) -> list[RawCaption]:
    return [RawCaption(f"line {n}", str(n), line, None) for n, line in enumerate(lines_of(text), 1)]


def _read_token(path: Path, text: str) -> list[RawCaption]:
    raws = []
    for n, line in enumerate(lines_of(text), 1):
        if not _is_token_line(line):
            if not line.strip():
                continue
            raise ValueError(f"{path}, line {n}: expected 'name.jpg#0<tab>caption', found {line[:60]!r}")
        name, caption = line.split("\t", 1)
        raws.append(RawCaption(f"line {n}", name, caption, name.rpartition("#")[0]))
    return raws


def _read_csv(path: Path, text: str) -> list[RawCaption]:
    body = text.lstrip()
    skipped = len(lines_of(text[: len(text) - len(body)] + "x")) - 1  # blank lines in front of the header
    delimiter = _delimiter(lines_of(body)[0])
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader)]

    def column(names: Sequence[str]) -> int | None:
        return next((columns.index(name) for name in names if name in columns), None)

    caption, id_, group = column(_CAPTION_COLUMNS), column(_ID_COLUMNS), column(_GROUP_COLUMNS)
    split = column([_SPLIT_COLUMN])
    if caption is None:
        raise ValueError(
            f"{path}, line {1 + skipped}: no caption column among {', '.join(columns)}; name one of them 'caption' "
            "in the header (for a file of one caption a line, set format='text')"
        )
    raws: list[RawCaption] = []
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
            raws.append(RawCaption(where, key, row[caption], name, row[split].strip() if split is not None else None))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + skipped}: not valid csv: {error}") from None
    return raws


def _from_object(path: Path, where: str, item: Any, default_id: str) -> RawCaption:
    if isinstance(item, str):
        return RawCaption(where, default_id, item, None)
    if not isinstance(item, dict):
        raise ValueError(f"{path}, {where}: expected an object or a string, found {type(item).__name__}")
    caption = next((name for name in _CAPTION_COLUMNS if name in item), None)
    if caption is None:
        raise ValueError(f"{path}, {where}: no field 'caption' or 'text' among {', '.join(item) or 'no fields'}")
    id_ = next((item[name] for name in _ID_COLUMNS if name in item), default_id)
    group = next((item[name] for name in _GROUP_COLUMNS if item.get(name) is not None), None)
    split = item.get(_SPLIT_COLUMN)
    return RawCaption(
        f"{where}.{caption}",
        str(id_),
        item[caption],
        None if group is None else str(group),
        None if split is None else str(split),
    )


def _read_json_list(path: Path, text: str) -> list[RawCaption]:
    data = json.loads(text)
    if not isinstance(data, list):
        raise ValueError(f"{path}: format 'json' is a list of captions, found a JSON {type(data).__name__}")
    return [_from_object(path, f"[{n}]", item, str(n)) for n, item in enumerate(data)]


def _read_jsonl(path: Path, text: str) -> list[RawCaption]:
    raws = []
    for n, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {n}: not valid JSON: {error.msg} (column {error.colno})") from None
        raws.append(_from_object(path, f"line {n}", item, str(n)))
    return raws


def entries_of(path: Path, data: Any, field: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """``data[field]``, checked: a list of objects that have ``fields``."""
    entries = data.get(field) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: no list '{field}' at the top level; is this the right kind of file?")
    for n, entry in enumerate(entries):
        missing = [name for name in fields if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise ValueError(f"{path}, {field}[{n}]: no field '{missing[0]}'")
    return entries


def _read_coco(path: Path, text: str) -> list[RawCaption]:
    entries = entries_of(path, json.loads(text), "annotations", ("id", "image_id"))
    if entries and "caption" not in entries[0]:
        raise ValueError(
            f"{path}, annotations[0]: no field 'caption'; is this an instances file? "
            "The captions are in captions_*.json"
        )
    return [
        RawCaption(f"annotations[{n}].caption", str(entry["id"]), entry.get("caption"), str(entry["image_id"]))
        for n, entry in enumerate(entries)
    ]


def _read_nocaps(path: Path, text: str) -> list[RawCaption]:
    """COCO's form; the images' domains are the splits."""
    data = json.loads(text)
    images = entries_of(path, data, "images", ("id",))
    if not data.get("annotations"):
        raise ValueError(
            f"{path} names {len(images)} images of NoCaps, but no captions: it is image info (the test set's captions "
            "are not public), so there are photos to caption (CocoPhotos), and no text to train on"
        )
    domains = {str(image["id"]): image.get("domain") for image in images}
    raws = _read_coco(path, text)
    unknown = [raw for raw in raws if raw.group not in domains]
    if unknown:
        raise ValueError(f"{path}, {unknown[0].where}: the image {unknown[0].group} is not among 'images'")
    return [raw._replace(split=domains[raw.group]) for raw in raws]


def karpathy_images(path: Path, data: Any, split: str | None) -> list[tuple[int, dict[str, Any]]]:
    """The images of a split with their index; 'train' takes 'restval' too, as the field does."""
    images = list(enumerate(entries_of(path, data, "images", ("sentences", "split"))))
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


def _read_karpathy(path: Path, text: str) -> list[RawCaption]:
    raws = []
    for n, image in karpathy_images(path, json.loads(text), None):
        for m, sentence in enumerate(image["sentences"]):
            where = f"images[{n}].sentences[{m}].raw"
            group = str(image.get("imgid", n))
            id_ = str(sentence.get("sentid", f"{group}#{m}"))
            raws.append(RawCaption(where, id_, sentence.get("raw"), group, str(image["split"])))
    return raws


_READERS = {
    "text": _read_plain,
    "csv": _read_csv,
    "json": _read_json_list,
    "jsonl": _read_jsonl,
    "coco": _read_coco,
    "nocaps": _read_nocaps,
    "karpathy": _read_karpathy,
    "flickr_token": _read_token,
}


def read_captions(path: Path, format: str = "auto") -> tuple[str, list[RawCaption]]:
    """All captions of a file, as they stand there.

    Args:
        path: the file.
        format: one of :data:`FORMATS`, or ``'auto'``.

    Returns:
        tuple: the format, and the captions in the file's order.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is empty, not UTF-8, or not in that format (in none that is known); the message names the
            line or field.
    """
    text = read_text(path)
    found = recognise(path, text) if format == "auto" else format
    try:
        return found, _READERS[found](path, text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON (format {found!r}): line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None


def census(raws: Iterable[RawCaption]) -> dict[str | None, tuple[int, int]]:
    """How many captions and how many groups (images) each split has, in the file's order; ``None``: without a split."""
    captions: Counter[str | None] = Counter()
    groups: dict[str | None, set[str | None]] = {}
    for raw in raws:
        captions[raw.split] += 1
        groups.setdefault(raw.split, set()).add(raw.group)
    return {split: (count, len(groups[split] - {None})) for split, count in captions.items()}


def read_names(path: Path, split: str | None = None) -> list[str]:
    """Names from a text file (one a line) or a json file (a list, or lists by split)."""
    text = read_text(path)
    if path.suffix.lower() != ".json":
        if split is not None:
            raise ValueError(f"split={split!r} needs a json file of lists by split; {path} is not one")
        return [line.strip() for line in lines_of(text) if line.strip()]
    data = read_json(path)
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
