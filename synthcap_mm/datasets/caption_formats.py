"""The formats that captions come in: recognised by content, and refused with the line that does not fit."""

from __future__ import annotations

import codecs
import csv
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from synthcap_mm.errors import UserError, listed, shown
from synthcap_mm.files import decode, parse_json

#: Most characters of a caption, blanks included (assumed). Real ones have about 60; the time and memory of ROUGE-L grow
#: with the square of a caption's words.
LONGEST_CAPTION = 2_000
_CAPTION_FIELDS = ("caption", "text", "comment", "raw", "sentence", "prompt")
_ID_FIELDS = ("id", "caption_id", "sentid")
_GROUP_FIELDS = ("image", "image_id", "image_name", "filename", "file_name", "group")
#: What tells an image or a caption from others.
_NAMES = {*_ID_FIELDS, *_GROUP_FIELDS, "imgid", "category_id", "split", "domain"}
_QUOTING = 'A cell that holds quotes or the delimiter is written in quotes, its own quotes twice: "a ""big"" dog"'
_OTHER_COLUMNS = ("comment_number", "caption_number", "split", "score", "url")


class RawCaption(NamedTuple):
    """A caption as its file has it.

    Attributes:
        where: its place, for messages: 'line 3', 'annotations[17].caption'.
        id: what the file calls it; ``None`` if it has no name there.
        text: not checked yet.
        group: the photo that it belongs to; ``None`` if the file does not say.
        split: Karpathy's split, NoCaps' domain, or a field ``split``; ``None`` if the file has none.
    """

    where: str
    id: str | None
    text: Any
    group: str | None = None
    split: str | None = None


# ---- text and JSON
def read_text(path: Path) -> str:
    """The text of a UTF-8 file; its lines end with line feeds, whatever ended them in the file.

    Raises:
        UserError: if there is no such file, or it is empty or not UTF-8 text.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path in the config (it is relative to {Path.cwd()})")
    data = path.read_bytes()
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise UserError(f"{path} is empty; it should hold captions (CaptionFile's docstring has the formats)")
    if data.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path}, line 1: this is a web page (a download that failed?), not a file of captions")
    text = decode(path, data)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """The lines of a text of :func:`read_text`."""
    return text.removesuffix("\n").split("\n")  # str.splitlines also cuts at U+2028 and the like


def check_characters(where: str, *texts: str | None) -> None:
    """Refuse half a character, which JSON's escapes can write and no file of ours can hold.

    Raises:
        UserError: naming ``where``.
    """
    for text in texts:
        half = re.search("[\ud800-\udfff]", text or "")
        if half:
            raise UserError(f"{where}: \\u{ord(half[0]):04x} is half of a surrogate pair; write the whole pair")


def check_length(where: str, caption: str) -> None:
    """Refuse a text that is no caption, since what is computed of it would not end.

    Raises:
        UserError: naming ``where``.
    """
    if len(caption) > LONGEST_CAPTION:
        raise UserError(
            f"{where}: a caption has at most {LONGEST_CAPTION:,} characters, found {len(caption):,}: {caption[:60]!r}…"
        )


def read_json(path: Path) -> Any:
    """The JSON value in a file of captions.

    Raises:
        UserError: see :func:`read_text` and :func:`~synthcap_mm.files.parse_json`.
    """
    return parse_json(path, read_text(path))


def json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The place ('line 3') and the JSON value of each line that is not blank.

    Raises:
        UserError: see :func:`~synthcap_mm.files.parse_json`.
    """
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            yield f"line {number}", parse_json(path, line, number)


def entries_of(path: Path, data: Any, field: str, fields: Sequence[str], within: str = "") -> list[dict[str, Any]]:
    """``data[field]``, which must be a list of objects that have ``fields``.

    Args:
        path: of the file, for messages.
        data: an object.
        field: name of the list.
        fields: names that every object of the list needs.
        within: the place of ``data`` in the file, such as ``'images[3].'``. Default: the top.

    Raises:
        UserError: naming the entry and the field that is missing, or is a name (an id, a split) and no number or text.
    """
    entries = data.get(field) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path}: there is no list '{within}{field}'; is this the right kind of file?")
    for n, entry in enumerate(entries):
        missing = [name for name in fields if not isinstance(entry, dict) or name not in entry or _unnamed(entry, name)]
        if missing:
            raise UserError(f"{path}, {within}{field}[{n}]: no field '{missing[0]}'")
        _check_names(path, f"{within}{field}[{n}]", entry)
    return entries


def _unnamed(entry: dict[str, Any], name: str) -> bool:
    return name in _NAMES and entry[name] is None


def _check_names(path: Path, where: str, entry: dict[str, Any]) -> None:
    """Refuse an object whose ids, or whatever else tells it from others, are neither numbers nor text."""
    for name in entry.keys() & _NAMES:
        if not isinstance(entry[name], (str, Real, type(None))):
            raise UserError(f"{path}, {where}.{name}: expected a number or text, found {shown(repr(entry[name]))}")


# ---- the formats
def _from_fields(path: Path, where: str, item: Any) -> RawCaption:
    """A caption that is a string, or an object with fields of the usual names."""
    if isinstance(item, str):
        return RawCaption(where, None, item)
    if not isinstance(item, dict):
        raise UserError(f"{path}, {where}: expected an object or a string, found {type(item).__name__}")
    caption = next((name for name in _CAPTION_FIELDS if name in item), None)
    if caption is None:
        raise UserError(f"{path}, {where}: no field 'caption' or 'text' among {listed(item, 8) or 'no fields'}")

    _check_names(path, where, item)

    def first(names: Sequence[str]) -> str | None:
        return next((str(item[name]).strip() for name in names if item.get(name) is not None), None)

    return RawCaption(where, first(_ID_FIELDS), item[caption], first(_GROUP_FIELDS), first(["split"]))


def _read_plain(path: Path, text: str) -> list[RawCaption]:
    return [RawCaption(f"line {n}", None, line) for n, line in enumerate(lines_of(text), 1)]


def _is_token_line(line: str) -> bool:
    return re.match(r"[^\t]+#\d+\t", line) is not None


def _read_token(path: Path, text: str) -> list[RawCaption]:
    raws = []
    for n, line in enumerate(lines_of(text), 1):
        if _is_token_line(line):
            name, caption = line.split("\t", 1)
            raws.append(RawCaption(f"line {n}", name, caption, name.rpartition("#")[0]))
        elif line.strip():
            raise UserError(f"{path}, line {n}: expected 'name.jpg#0<tab>caption', found {line[:60]!r}")
    return raws


def _delimiter(header: str) -> str:
    return max(",\t|;", key=header.count)


class _Record(NamedTuple):
    """A row of a csv: the number of its first line, its lines as they stand in the file, and its cells."""

    line: int
    lines: list[str]
    cells: list[str]


def _csv_records(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[_Record]:
    """The rows of a csv's lines, the header too; empty lines are none.

    Raises:
        UserError: for quotes that are none of csv's: what follows them would be swallowed, or they would be learnt.
    """
    escaped = next((n for n, line in enumerate(lines, 1) if '\\"' in line), None)
    if escaped is not None:
        raise UserError(f'{path}, line {escaped}: csv knows no \\": {lines[escaped - 1][:80]!r}. {_QUOTING}')
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins = 0
    try:
        for cells in reader:
            if cells:
                yield _Record(begins + 1, lines[begins : reader.line_num], cells)
            begins = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, line {begins + 1}: a quote opens a cell, and none closes it as in csv ({error}): "
            f"{lines[begins][:80]!r}. {_QUOTING}. If no cell of the file is quoted on purpose, remove all quotes: "
            f"tr -d '\"' < {shlex.quote(str(path))} > NEW_FILE"
        ) from None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The place of each row, where it begins, and its fields by column."""
    lines = [f"{line}\n" for line in lines_of(text)]
    delimiter = _delimiter(next(line for line in lines if line.strip()))
    records = _csv_records(path, lines, delimiter)
    header = next(record.cells for record in records if "".join(record.cells).strip())
    columns = [name.strip().lower() for name in header]
    for record in records:
        why = _doubt(record, columns, delimiter)
        if why is not None:
            raise UserError(f"{path}, line {record.line}: {why}: {''.join(record.lines)[:80]!r}")
        yield f"line {record.line}", dict(zip(columns, record.cells))


def _is_like_a_row(line: str, columns: int, delimiter: str) -> bool:
    """Whether a line could be a row by itself: it has the cells, and text would have blanks behind its commas."""
    cells = line.split(delimiter)
    return len(cells) == columns and not any(cell[:1].isspace() for cell in cells)


def _may_be_rows(lines: Sequence[str], columns: int, delimiter: str) -> bool:
    """Whether lines of which quotes make one row could be several."""
    like = [(line, _is_like_a_row(line, columns, delimiter)) for line in lines if line.strip()]
    # A cell's last line may end the row, with cells behind the closing quote only.
    return all(row for _, row in like) or any(row and delimiter in line.partition('"')[0] for line, row in like[1:])


def _doubt(record: _Record, columns: Sequence[str], delimiter: str) -> str | None:
    """Why a row cannot be read for certain, and what to do; ``None`` if it can."""
    found, wanted = len(record.cells), len(columns)
    if found != wanted:
        hint = "The row is cut short" if found < wanted else f"{_QUOTING}, with no blank before the first of them"
        return f"{found} fields where the header has {wanted} ({', '.join(columns)}). {hint}"
    if len(record.lines) > 1 and _may_be_rows(record.lines, wanted, delimiter):
        return (
            f"quotes make one cell of {len(record.lines)} lines, and some of these could be rows by themselves; remove "
            "the quote that should not be there, or write the cell on one line"
        )
    if any(re.fullmatch(r'\s+".*"\s*', cell, re.DOTALL) for cell in record.cells):
        return "a blank stands before the quotes of a cell; remove it"
    return None


def _read_csv(path: Path, text: str) -> list[RawCaption]:
    raws = []
    seen: Counter[str] = Counter()
    for where, row in _csv_rows(path, text):
        raw = _from_fields(path, where, row)
        if raw.id is None and raw.group is not None:  # as in Flickr8k's token file
            raw = raw._replace(id=f"{raw.group}#{seen[raw.group]}")
            seen[raw.group] += 1
        raws.append(raw)
    return raws


def _read_jsonl(path: Path, text: str) -> list[RawCaption]:
    return [_from_fields(path, where, item) for where, item in json_lines(path, text)]


def _read_json_list(path: Path, data: Any) -> list[RawCaption]:
    if not isinstance(data, list):
        raise UserError(f"{path}: format 'json' is a list of captions, found a JSON {type(data).__name__}")
    return [_from_fields(path, f"[{n}]", item) for n, item in enumerate(data)]


def _read_coco(path: Path, data: Any) -> list[RawCaption]:
    entries = entries_of(path, data, "annotations", ("id", "image_id"))
    if entries and "caption" not in entries[0]:
        raise UserError(
            f"{path}, annotations[0]: no field 'caption'; is this an instances file? "
            "The captions are in captions_*.json"
        )
    return [
        RawCaption(f"annotations[{n}].caption", str(entry["id"]), entry.get("caption"), str(entry["image_id"]))
        for n, entry in enumerate(entries)
    ]


def _read_nocaps(path: Path, data: Any) -> list[RawCaption]:
    """COCO's form; the images' domains are the splits."""
    images = entries_of(path, data, "images", ("id",))
    if not data.get("annotations"):
        raise UserError(
            f"{path} names {len(images)} images of NoCaps, but no captions: it is image info (the test set's captions "
            "are not public), so there are photos to caption (CocoPhotos), and no text to train on"
        )
    domains = {str(image["id"]): image.get("domain") for image in images}
    raws = _read_coco(path, data)
    unknown = [raw for raw in raws if raw.group not in domains]
    if unknown:
        raise UserError(f"{path}, {unknown[0].where}: the image {unknown[0].group} is not among 'images'")
    return [raw._replace(split=domains[raw.group]) for raw in raws]


def karpathy_images(path: Path, data: Any, split: str | None) -> list[tuple[int, dict[str, Any]]]:
    """The images of a Karpathy split with their index in the file.

    Args:
        path: of the file, for messages.
        data: its JSON value.
        split: 'train' takes 'restval' too, as is usual; ``None`` takes all.

    Raises:
        UserError: for a damaged file or an unknown split.
    """
    images = list(enumerate(entries_of(path, data, "images", ("sentences", "split"))))
    for n, image in images:
        entries_of(path, image, "sentences", ("raw",), f"images[{n}].")
    if split is None:
        return images
    splits = (split, "restval") if split == "train" else (split,)
    chosen = [(n, image) for n, image in images if image["split"] in splits]
    if not chosen:
        present = ", ".join(sorted({str(image["split"]) for _, image in images}))
        raise UserError(f"{path} has no split {split!r}; it has {present or 'no images'}")
    return chosen


def _read_karpathy(path: Path, data: Any) -> list[RawCaption]:
    raws = []
    for n, image in karpathy_images(path, data, None):
        group = str(image.get("imgid", n))
        for m, sentence in enumerate(image["sentences"]):
            where = f"images[{n}].sentences[{m}].raw"
            id_ = str(sentence.get("sentid", f"{group}#{m}"))
            raws.append(RawCaption(where, id_, sentence["raw"], group, str(image["split"])))
    return raws


_TEXT_READERS: dict[str, Callable[[Path, str], list[RawCaption]]] = {
    "text": _read_plain,
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "flickr_token": _read_token,
}
_JSON_READERS: dict[str, Callable[[Path, Any], list[RawCaption]]] = {
    "json": _read_json_list,
    "coco": _read_coco,
    "karpathy": _read_karpathy,
    "nocaps": _read_nocaps,
}
#: Formats that :class:`~synthcap_mm.datasets.captions.CaptionFile` reads.
FORMATS = (*_TEXT_READERS, *_JSON_READERS)


# ---- recognising them
def _json_value(path: Path, text: str) -> dict | list | None:
    """The object or list that a text is; ``None`` for any other text."""
    try:
        value = parse_json(path, text)
    except UserError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _format_of_json(path: Path, data: dict | list) -> str:
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
    if any(name in data for name in _CAPTION_FIELDS):
        return "jsonl"  # of one line
    raise UserError(
        f"{path} holds no captions that are known: a JSON object with the fields {listed(data, 8)}. Recognised are "
        "COCO captions ('annotations'), Karpathy splits ('images' with 'sentences'), NoCaps ('open_images_id'), and a "
        "list of objects with 'caption' or 'text'. An image info file has photos to caption, and no text to train on"
    )


def _format_of_lines(path: Path, text: str) -> str:
    filled = [line for line in lines_of(text) if line.strip()]
    kind = path.suffix.lower()
    if _json_value(path, filled[0]) is not None:
        return "jsonl"
    if kind in (".json", ".jsonl"):
        parse_json(path, text)  # raises, naming line and column
    # More than half suffice: the reader then names the damaged lines instead of taking them for captions.
    if sum(map(_is_token_line, filled[:100])) * 2 > len(filled[:100]):
        return "flickr_token"
    columns = [name.strip(' "').lower() for name in filled[0].split(_delimiter(filled[0]))]
    known = _CAPTION_FIELDS + _ID_FIELDS + _GROUP_FIELDS + _OTHER_COLUMNS
    if kind in (".csv", ".tsv") or (
        len(columns) > 1 and set(columns) <= set(known) and not set(columns).isdisjoint(_CAPTION_FIELDS)
    ):
        return "csv"
    if all("\t" in line.strip() for line in filled[:100]):
        raise UserError(
            f"{path}, line 1: columns divided by tabs, without a header that names one of them 'caption': "
            f"{filled[0][:60]!r}. Add the header, or set format='text' if the lines are captions as they are"
        )
    return "text"


def read_captions(path: Path, format: str = "auto") -> tuple[str, list[RawCaption]]:
    """All captions of a file, unchanged.

    Args:
        path: the file.
        format: one of :data:`FORMATS`, or ``'auto'``: by content; the extension only decides between csv and text.

    Returns:
        tuple: the format, and the captions in the file's order.

    Raises:
        UserError: if the file does not exist, is empty, not UTF-8, not in that format (in none that is known),
            or has a caption of more than :data:`LONGEST_CAPTION` characters; the message names the line or field.
    """
    text = read_text(path)
    data = _json_value(path, text)
    if format == "auto":
        format = _format_of_lines(path, text) if data is None else _format_of_json(path, data)
    if format in _TEXT_READERS:
        raws = _TEXT_READERS[format](path, text)
    else:
        raws = _JSON_READERS[format](path, parse_json(path, text) if data is None else data)
    for raw in raws:
        if isinstance(raw.text, str):
            check_length(f"{path}, {raw.where}", raw.text)
    return format, raws


def read_names(path: Path, split: str | None = None) -> list[str]:
    """Names from a text file (one a line), or a json file (a list, or an object of lists by split).

    Args:
        path: the file.
        split: the list to take of an object; ``None`` takes all of them. Default ``None``.

    Raises:
        UserError: if it is no such file, or has no such split.
    """
    text = read_text(path)
    data = _json_value(path, text) if path.suffix.lower() == ".json" else lines_of(text)
    if isinstance(data, dict):
        if split is not None and split not in data:
            raise UserError(f"{path} has no split {split!r}; it has {', '.join(data)}")
        lists = list(data.values()) if split is None else [data[split]]
        data = [name for names in lists for name in names] if all(isinstance(x, list) for x in lists) else None
    elif split is not None:
        raise UserError(f"split={split!r} needs a json file of lists by split; {path} is not one")
    if not isinstance(data, list) or not all(isinstance(name, (str, int)) for name in data):
        raise UserError(f"{path}: expected a list of names, or an object of such lists by split")
    return [str(name).strip() for name in data if str(name).strip()]
