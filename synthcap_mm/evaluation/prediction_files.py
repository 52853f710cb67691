"""Files of predicted captions and of references, in anybody's format, joined by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synthcap_mm.datasets.caption_formats import (
    RawCaption,
    check_characters,
    check_length,
    entries_of,
    json_lines,
    read_captions,
    read_json,
    read_text,
)
from synthcap_mm.errors import UserError, listed, shown
from synthcap_mm.evaluation.image_names import find_images
from synthcap_mm.files import as_text, parse_json

#: Fields of other forms than ``{image: [caption]}``.
_FIELDS = {"images", "annotations", "image", "image_id", "caption", "text", "comment", "raw", "sentence", "prompt"}


def _object_of(path: Path, text: str) -> dict[str, Any] | None:
    """The JSON object that a file is; ``None``: it is a list, or has one value a line, or is no JSON."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        return parse_json(path, text)
    except UserError as error:
        try:
            next(iter(json_lines(path, text)))
        except UserError:
            raise error from None
        return None


def _own_images(path: Path, data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The images of a json that :class:`CaptionMetric` wrote, or ``None`` if it is another's."""
    images = (data or {}).get("images")
    if not isinstance(images, dict):
        return None
    for key, image in images.items():
        where = f"{path}, images[{shown(key)!r}]"
        image = image if isinstance(image, dict) else {}
        if not _are_texts([image.get("hypothesis")]) or not _are_texts(image.get("references")):
            raise UserError(f"{where}: expected a caption, 'hypothesis', and a list of them, 'references'")
        for caption in (image["hypothesis"], *image["references"]):
            _check_caption(where, caption)
    return images


def _check_caption(where: str, caption: str, *names: str) -> None:
    """Refuse a text that is no caption, in whatever form it is written."""
    check_characters(where, caption, *names)
    check_length(where, caption)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _by_image(path: Path, data: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    """Captions in pycocoevalcap's form, ``{image: [caption]}`` or ``{image: [{"caption": caption}]}``.

    Returns:
        ``None`` if it is another form.
    """
    if not data or data.keys() & _FIELDS or not _texts(next(iter(data.values()))):
        return None
    found = {}
    for name, value in data.items():
        where = f"{path}, {shown(name)!r}"
        found[name] = _texts(value)
        if not found[name]:
            raise UserError(f"{where}: expected a list of captions, as the others have, found {shown(repr(value))}")
        for caption in found[name]:
            _check_caption(where, caption, name)
    return found


def _texts(value: Any) -> list[str]:
    """The captions of a caption or a list of them; none if it is something else."""
    values = value if isinstance(value, list) else [value]
    texts = [one.get("caption") if isinstance(one, dict) else one for one in values]
    return texts if _are_texts(texts) else []


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
    """The place of each entry, and the entry."""
    if text.lstrip()[:1] == "[":
        return ((f"[{n}]", entry) for n, entry in enumerate(parse_json(path, text)))
    return json_lines(path, text)


def read_predictions(path: str | Path) -> Predictions:
    """Predicted captions.

    Args:
        path: COCO's result format (a list of ``{"image_id": …, "caption": …}``), lines of ``{"image": …,
            "caption": …}`` as ``tools/caption.py`` writes them, pycocoevalcap's ``{image: [caption]}``, or the json of
            :class:`CaptionMetric`.

    Raises:
        UserError: if there is no such file, it is none of these, an image has several captions, or one is too long;
            file and entry are named.
    """
    path = Path(path)
    text = read_text(path)
    data = _object_of(path, text)
    images = _own_images(path, data)
    if images is not None:
        return Predictions(path, {key: image["hypothesis"] for key, image in images.items()}, [])
    by_image = _by_image(path, data)
    if by_image is not None:
        return Predictions(path, {name: _only(path, name, texts) for name, texts in by_image.items()}, [])
    captions: dict[str, str] = {}
    places: dict[str, str] = {}
    failed: list[str] = []
    for place, entry in _entries(path, text) if data is None else [("line 1", data)]:
        where = f"{path}, {place}"
        name = _image_of(where, entry)
        if entry.get("caption") is None and "error" in entry:
            failed.append(name)
            continue
        if not isinstance(entry.get("caption"), str):
            value = shown(repr(entry.get("caption")))
            raise UserError(f"{where}: 'caption' of the image {shown(name)!r} is not a string: {value}")
        _check_caption(where, entry["caption"], name)
        if name in captions:
            raise UserError(
                f"{where}: the image {shown(name)!r} has a caption already, at {places[name]}; of several captions, "
                "keep the best"
            )
        captions[name], places[name] = entry["caption"], place
    if not captions:
        raise UserError(f"{path} holds no predictions; expected a list of {{'image_id': …, 'caption': …}}")
    return Predictions(path, captions, failed)


def _only(path: Path, name: str, texts: Sequence[str]) -> str:
    if len(texts) > 1:
        raise UserError(f"{path}, {shown(name)!r}: {len(texts)} captions of one image; keep the best")
    return texts[0]


def _image_of(where: str, entry: Any) -> str:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {type(entry).__name__}")
    name = next((entry[field] for field in ("image_id", "image") if entry.get(field) is not None), None)
    if name is None:
        raise UserError(
            f"{where}: no field 'image_id' (COCO's result format) or 'image' among {listed(entry) or 'no fields'}"
        )
    if not isinstance(name, (str, int)):
        raise UserError(f"{where}: an image is named by a number or text, found {shown(repr(name))}")
    return as_text(str(name))


class References(NamedTuple):
    """Captions of people.

    Attributes:
        path: the file.
        captions: captions by image.
        names: what the file calls each image.
    """

    path: Path
    captions: dict[str, list[str]]
    names: dict[str, list[str]]


def read_references(path: str | Path, split: str | None = None) -> References:
    """Captions of people.

    Args:
        path: any format of :class:`~synthcap_mm.datasets.captions.CaptionFile` that names the images (COCO's and
            Karpathy's json, Flickr's files, …), pycocoevalcap's ``{image: [caption, …]}``, or the json of
            :class:`CaptionMetric`.
        split: of a file with splits. Defaults to ``None``: Karpathy's ``'test'``, all of NoCaps' domains.

    Raises:
        UserError: if there is no such file, it has no captions or does not name the images, has a caption that is too
            long, has several splits and none is chosen, or lacks the split.
    """
    path = Path(path)
    data = _object_of(path, read_text(path))
    own = _own_images(path, data)
    captions = _by_image(path, data) if own is None else {key: image["references"] for key, image in own.items()}
    if captions is not None:
        return References(path, captions, {key: [key] for key in captions})
    found, raws = read_captions(path)
    raws = _of_split(path, found, raws, split)
    if any(raw.group is None for raw in raws):
        raise UserError(f"{path} (format {found}) does not say which image its captions belong to")
    in_file = _names_in_file(path, found)
    names: dict[str, list[str]] = {}
    captions = {}
    for raw in raws:
        if not isinstance(raw.text, str):
            raise UserError(f"{path}, {raw.where}: a caption is a text, found {shown(repr(raw.text))}")
        called = in_file.get(raw.group, [raw.group])
        names[called[0]] = called
        captions.setdefault(called[0], []).append(raw.text)
    return References(path, captions, names)


def _of_split(path: Path, found: str, raws: Sequence[RawCaption], split: str | None) -> Sequence[RawCaption]:
    splits = sorted({raw.split for raw in raws if raw.split is not None})
    if split is None and found == "karpathy":
        split = "test"
    if split is None and len(splits) > 1 and found != "nocaps":
        raise UserError(f"{path} has the splits {listed(splits, 20)}: name one (--split)")
    if split in (None, "all"):
        return raws
    if split not in splits:
        raise UserError(f"{path} has no split {split!r}; it has {listed(splits, 20) or 'none'}")
    return [raw for raw in raws if raw.split == split]


def _names_in_file(path: Path, found: str) -> dict[str, list[str]]:
    """What a json calls each image, by the name that its captions refer to; the first is the image's key."""
    if found in ("coco", "nocaps"):
        images = entries_of(path, {"images": [], **read_json(path)}, "images", ("id",))
        return {str(i["id"]): [str(i["id"]), str(i["file_name"])] for i in images if "file_name" in i}
    if found != "karpathy":
        return {}
    names = {}
    for n, image in enumerate(read_json(path)["images"]):
        # Karpathy's imgid is no name: the same number is COCO's id of another image.
        parts = [str(image[field]) for field in ("filepath", "filename") if field in image]
        number = [str(image["cocoid"])] if "cocoid" in image else []
        imgid = str(image.get("imgid", n))
        # The whole path first, which is the image's key: two folders may have a file of the same name.
        names[imgid] = [*(["/".join(parts)] if parts else [imgid]), *parts[-1:], *number]
    return names


def join(predictions: Predictions, references: References) -> dict[str, str]:
    """Predictions by the references' images, found by :func:`~synthcap_mm.evaluation.image_names.find_images`.

    Args:
        predictions: see :func:`read_predictions`.
        references: see :func:`read_references`.

    Raises:
        UserError: if a prediction is for no image of the references, two are for the same, or an image has none.
    """
    joined: dict[str, str] = {}
    name_of: dict[str, str] = {}
    extra = []
    images = find_images(predictions.captions, references.names, str(references.path))
    for name, caption in predictions.captions.items():
        key = images.get(name)
        if key is None:
            extra.append(name)
            continue
        if key in joined:
            raise UserError(
                f"{predictions.path}: {shown(name_of[key])!r} and {shown(name)!r} are the same image of "
                f"{references.path}, {shown(key)!r}"
            )
        joined[key], name_of[key] = caption, name
    if extra:
        raise UserError(
            f"{predictions.path}: {len(extra)} predictions are for images that {references.path} lacks: "
            f"{listed(extra)}; its images are called {listed(references.captions, 2)}. A shorter name ('1' for "
            "'photos/a/1.jpg') will do where it is the end of only one image's"
        )
    missing = [key for key in references.captions if key not in joined]
    if missing:
        failed = f" ({len(predictions.failed)} could not be captioned, says the file)" if predictions.failed else ""
        raise UserError(
            f"{predictions.path}: {len(missing)} of {len(references.captions)} images of {references.path} have no "
            f"prediction: {listed(missing)}{failed}. An average over only the others is not comparable"
        )
    return joined
