"""Files of predicted captions and of references, from anybody's hands, joined by image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from synthcap_mm.datasets.caption_formats import check_characters, lines_of, read_captions, read_text
from synthcap_mm.evaluation.scorer import few


def image_names(name: str) -> list[str]:
    """What an image may go by, likeliest first: its name, that without folders, without extension, COCO's number in it.

    ``'val2014/COCO_val2014_000000000042.jpg'`` is also ``'42'``.
    """
    last = PurePosixPath(name).name
    stem = last.rpartition(".")[0] or last
    number = stem.rpartition("_")[2]
    return list(
        dict.fromkeys([name, last, stem, *([str(int(number))] if number.isascii() and number.isdigit() else [])])
    )


class Predictions(NamedTuple):
    """One caption an image.

    Attributes:
        path: the file.
        captions: caption by the name that the file gives the image.
        failed: images that the file says could not be captioned.
    """

    path: Path
    captions: dict[str, str]
    failed: list[str]


def _entries(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    """Where each entry stands, and the entry."""
    if text.lstrip()[:1] == "[":
        try:
            yield from ((f"[{n}]", entry) for n, entry in enumerate(json.loads(text)))
            return
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
            ) from None
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not valid JSON: {error.msg} (column {error.colno})") from None


def _ours(text: str) -> dict[str, Any] | None:
    """The images of a json that :class:`CaptionMetric` wrote, or ``None`` if it is another file."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        data = json.loads(text)
    except json.JSONDecodeError:  # several lines: jsonl
        return None
    return data["images"] if isinstance(data, dict) and isinstance(data.get("images"), dict) else None


def read_predictions(path: str | Path) -> Predictions:
    """Predicted captions.

    Args:
        path: COCO's result format (a list of ``{"image_id": …, "caption": …}``), lines of ``{"image": …,
            "caption": …}`` as ``tools/caption.py`` writes them, or the json of :class:`CaptionMetric`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these, or an image has several captions; file and entry are named.
    """
    path = Path(path)
    text = read_text(path)
    images = _ours(text)
    if images is not None:
        return Predictions(path, {key: image["hypothesis"] for key, image in images.items()}, [])
    captions: dict[str, str] = {}
    places: dict[str, list[str]] = {}
    failed: list[str] = []
    for where, entry in _entries(path, text):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, {where}: expected an object, found {type(entry).__name__}")
        name = next((entry[field] for field in ("image_id", "image") if entry.get(field) is not None), None)
        if name is None:
            raise ValueError(
                f"{path}, {where}: no field 'image_id' (COCO's result format) or 'image' among "
                f"{', '.join(entry) or 'no fields'}"
            )
        name = str(name)
        if entry.get("caption") is None and "error" in entry:
            failed.append(name)
            continue
        if not isinstance(entry.get("caption"), str):
            raise ValueError(f"{path}, {where}: 'caption' of the image {name!r} is no text: {entry.get('caption')!r}")
        check_characters(f"{path}, {where}", entry["caption"], name)
        captions[name] = entry["caption"]
        places.setdefault(name, []).append(where)
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    if repeated:
        shown = "; ".join(f"{name!r} at {', '.join(found)}" for name, found in list(repeated.items())[:5])
        raise ValueError(
            f"{path}: {len(repeated)} images have more than one caption: {shown}. One is scored: of several, keep the "
            "best"
        )
    if not captions:
        raise ValueError(f"{path} holds no predictions; expected a list of {{'image_id': …, 'caption': …}}")
    return Predictions(path, captions, failed)


def read_references(path: str | Path, split: str | None = None) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Captions of people.

    Args:
        path: any format of :class:`~synthcap_mm.datasets.captions.CaptionFile` that tells the images apart (COCO's and
            Karpathy's json, Flickr's files, …), or the json of :class:`CaptionMetric`.
        split: of a file with splits. Defaults to ``None``: Karpathy's ``'test'``, all of NoCaps' domains.

    Returns:
        tuple: captions by image, and the image of each name that it may go by (names that two share are left out).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no captions or does not tell the images apart, several splits and none named, or not the
            split.
    """
    path = Path(path)
    images = _ours(read_text(path))
    aliases: dict[str, list[str]] = {}
    if images is not None:
        references = {key: list(image["references"]) for key, image in images.items()}
    else:
        found, raws = read_captions(path, "auto")
        splits = sorted({raw.split for raw in raws if raw.split is not None})
        if split is None and found == "karpathy":
            split = "test"
        if split is None and len(splits) > 1 and found != "nocaps":
            raise ValueError(f"{path} has the splits {', '.join(splits)}: name one (--split)")
        if split is not None and split != "all":
            if split not in splits:
                raise ValueError(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}")
            raws = [raw for raw in raws if raw.split == split]
        if any(raw.group is None for raw in raws):
            raise ValueError(f"{path} (format {found}) does not say which image its captions belong to")
        if found in ("coco", "karpathy", "nocaps"):
            aliases = _other_names(path, found)
        references = {}
        for raw in raws:
            # Karpathy's own numbers of images are COCO's numbers of others, so there they are no names.
            key = aliases[raw.group][0] if found == "karpathy" and aliases[raw.group] else raw.group
            references.setdefault(key, []).append(raw.text or "")
        if found == "karpathy":
            aliases = {names[0]: names[1:] for names in aliases.values() if names}
    owner: dict[str, str] = {}
    # What the file itself calls an image goes before what its name may be short for.
    given = {key: [key, *aliases.get(key, [])] for key in references}
    for names_of in (lambda name: [name], image_names):
        found_now: dict[str, set[str]] = {}
        for key, names in given.items():
            for name in names:
                for short in names_of(name):
                    found_now.setdefault(short, set()).add(key)
        owner |= {name: next(iter(keys)) for name, keys in found_now.items() if len(keys) == 1 and name not in owner}
    return references, owner


def _other_names(path: Path, found: str) -> dict[str, list[str]]:
    """What else the images of a json are called, by the name that its captions go by."""
    data = json.loads(read_text(path))
    if found != "karpathy":
        return {str(i["id"]): [str(i["file_name"])] for i in data.get("images") or [] if "id" in i and "file_name" in i}
    names: dict[str, list[str]] = {}
    for n, image in enumerate(data["images"]):
        parts = [str(image[field]) for field in ("filepath", "filename") if field in image]
        names[str(image.get("imgid", n))] = [
            *parts[-1:],
            "/".join(parts),
            *([str(image["cocoid"])] if "cocoid" in image else []),
        ]
    return names


def join(
    predictions: Predictions, references: Mapping[str, list[str]], images: Mapping[str, str], path: str | Path
) -> dict[str, str]:
    """Predictions by the references' images.

    Args:
        predictions: see :func:`read_predictions`.
        references: see :func:`read_references`.
        images: the image of each name, see there.
        path: the references' file, for messages.

    Raises:
        ValueError: if a prediction is for no image of the references, two are for the same, or an image has none.
    """
    joined: dict[str, str] = {}
    by: dict[str, str] = {}
    extra = []
    for name, caption in predictions.captions.items():
        key = next((images[n] for n in image_names(name) if n in images), None)
        if key is None:
            extra.append(name)
            continue
        if key in joined:
            raise ValueError(f"{predictions.path}: {by[key]!r} and {name!r} are the same image of {path}, {key!r}")
        joined[key], by[key] = caption, name
    if extra:
        raise ValueError(
            f"{predictions.path}: {len(extra)} predictions are for images that {path} lacks: {few(extra)}; its images "
            f"are like {few(list(references)[:2])}"
        )
    missing = [key for key in references if key not in joined]
    if missing:
        failed = f" ({len(predictions.failed)} could not be captioned, says the file)" if predictions.failed else ""
        raise ValueError(
            f"{predictions.path}: {len(missing)} of {len(references)} images of {path} have no prediction: "
            f"{few(missing)}{failed}. An average over the others would be another score"
        )
    return joined
