"""Sources of real photos: they name photos, open them, and know their reference captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from synthcap_mm.datasets.caption_formats import (
    check_characters,
    entries_of,
    karpathy_images,
    read_json,
    read_names,
)
from synthcap_mm.datasets.captions import CaptionFile
from synthcap_mm.errors import UserError, listed
from synthcap_mm.evaluation.tokenizer import has_words
from synthcap_mm.files import inside
from synthcap_mm.images import find_images, read_image
from synthcap_mm.options import Data, That
from synthcap_mm.registry import DATASETS

if TYPE_CHECKING:
    from PIL.Image import Image


class PhotoSource:
    """Photos with keys and, possibly, reference captions.

    Args:
        paths (dict[str, Path]): file of each key, in the order of the source.
        references (dict[str, list[str]], optional): reference captions by key.
        origin (str): where they come from, for messages.
        domains (dict[str, str], optional): the part of the set that each key belongs to, where metrics are
            wanted by part (NoCaps). Defaults to ``None``: there are no parts.

    Attributes:
        keys (list[str]): what identifies each photo; unique.
        origin (str): see above.

    Raises:
        UserError: if there is no photo, or photo files are missing: how many, the first few, and where
            they are expected.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        references: dict[str, list[str]] | None,
        origin: str,
        domains: dict[str, str] | None = None,
    ) -> None:
        if not paths:
            raise UserError(f"no photos in {origin}")
        missing = [key for key, path in paths.items() if not path.is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(paths)} photos of {origin} are missing: {listed(missing)}. The first is "
                f"expected at {paths[missing[0]]}"
            )
        self.keys = list(paths)
        self.origin = origin
        self._paths = paths
        self._references = references or {}
        self._domains = domains or {}

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path:
        """File of the photo at ``index``."""
        return self._paths[self.keys[index]]

    def load(self, index: int) -> Image:
        """The photo at ``index``, RGB, turned upright as its EXIF orientation says.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it does not decode; the message names it.
        """
        return read_image(self.path(index))

    def references(self, index: int) -> list[str]:
        """Reference captions of the photo at ``index``; empty if there are none."""
        return list(self._references.get(self.keys[index], []))

    def domain(self, index: int) -> str | None:
        """The part of the set that the photo at ``index`` belongs to, or ``None``."""
        return self._domains.get(self.keys[index])

    def describe(self) -> str:
        """One line: where from, how many photos and references."""
        count = sum(len(self.references(index)) for index in range(len(self)))
        return f"{self.origin}: {len(self)} photos, {count} references"


def _clean_references(origin: str, key: str, captions: Any) -> list[str]:
    if not isinstance(captions, (list, tuple)):  # each letter of a string would become a reference
        raise UserError(f"{origin}: the references of {key} are a {type(captions).__name__}; give a list of strings")
    cleaned = []
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"{origin}: a reference caption of {key} is empty or no text: {caption!r}")
        check_characters(f"{origin}: a reference caption of {key!a}", caption)
        cleaned.append(" ".join(caption.split()))
    if cleaned and not any(map(has_words, cleaned)):
        raise UserError(f"{origin}: no reference caption of {key} has words: {listed(cleaned)}")
    return cleaned


def _refuse_repeated(where: str, what: str, values: Iterable[Any]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise UserError(f"{where}: {len(repeated)} {what} occur more than once: {listed(repeated)}")


def _choose(
    paths: dict[str, Path], keys: Sequence[str] | str | Path | None, split: str | None, origin: str
) -> dict[str, Path]:
    """``paths`` of ``keys`` only, in the order of ``keys``."""
    if keys is None:
        if split is not None:
            raise UserError(f"split={split!r} needs keys=, a json file of lists by split")
        return paths
    where = "keys"
    if isinstance(keys, (str, Path)):
        where = str(keys)
        keys = read_names(Path(keys), split)
    unknown = [key for key in keys if key not in paths]
    if unknown:
        raise UserError(
            f"{len(unknown)} names of {where} are not in {origin}: {listed(unknown)}; its names look like "
            f"{listed(paths, 2)}"
        )
    _refuse_repeated(where, "photos", keys)
    return {key: paths[key] for key in keys}


@DATASETS.register_module()
class PhotoFolder(PhotoSource):
    """All photos in a folder and its subfolders; key = path relative to it; sorted (see ``images.find_images``).

    Args:
        root (str | Path): the folder; hidden files and folders are left out.
        extensions (Sequence[str], optional): take these only. Defaults to ``None``: those of all formats that are read.
        references (dict[str, list[str]] | str | Path, optional): reference
            captions by key, or a json file of such a mapping.

    Raises:
        UserError: if the folder does not exist, holds no photo, or references name photos that are not there.
    """

    def __init__(
        self,
        root: str | Path,
        extensions: Sequence[str] | None = None,
        references: dict[str, list[str]] | str | Path | None = None,
    ) -> None:
        paths = find_images(root, extensions)
        where = "references"
        if isinstance(references, (str, Path)):
            where = str(references)
            references = read_json(Path(references))
            if not isinstance(references, dict):
                raise UserError(f"{where}: expected an object {{file name: [captions]}}")
        references = references or {}
        unknown = [key for key in references if key not in paths]
        if unknown:
            raise UserError(f"{len(unknown)} names of {where} are not in {root}: {listed(unknown)}")
        cleaned = {key: _clean_references(where, key, captions) for key, captions in references.items()}
        super().__init__(paths, cleaned, str(root))


@DATASETS.register_module()
class CocoPhotos(PhotoSource):
    """Photos of a COCO-format captions json; key = file name; all its captions are references.

    NoCaps' field ``domain`` goes with each photo, so that there are metrics of each domain too.

    An image info file (COCO's or NoCaps' test set) has no captions: its photos have no references.

    Args:
        ann_file (str | Path): COCO's captions json, or NoCaps'.
        image_root (str | Path): folder of the photos.
        keys (Sequence[str] | str | Path, optional): use these file names only,
            in this order; or a text or json file of names.
        split (str, optional): the list to take of a json file ``keys`` with lists by split.
        domain (str, optional): NoCaps' 'in-domain', 'near-domain' or 'out-domain' only. Defaults to ``None``, all.

    Raises:
        UserError: if the json or photos are missing; for a damaged json, repeated ids or names, captions of
            unknown images, unknown ``keys``, or a ``domain`` that no image has.
    """

    def __init__(
        self,
        ann_file: str | Path,
        image_root: str | Path,
        keys: Sequence[str] | str | Path | None = None,
        split: str | None = None,
        domain: str | None = None,
    ) -> None:
        ann_file, image_root = Path(ann_file), Path(image_root)
        images, captions = _coco_entries(ann_file)
        domains = {image["file_name"]: str(image["domain"]) for image in images if image.get("domain")}
        if domain is not None and domain not in domains.values():
            known = ", ".join(sorted(set(domains.values()))) or "none"
            raise UserError(f"{ann_file} has no image of domain={domain!r}; it has {known}")
        names = [image["file_name"] for image in images]
        references = {
            name: _clean_references(str(ann_file), name, captions[image["id"]]) for name, image in zip(names, images)
        }
        paths = {name: inside(image_root, name, ann_file) for name in names if domain in (None, domains.get(name))}
        super().__init__(_choose(paths, keys, split, str(ann_file)), references, str(ann_file), domains)


def _coco_entries(path: Path) -> tuple[list[dict[str, Any]], dict[Any, list[Any]]]:
    """The images of a COCO json, and the captions of each image's id."""
    data = read_json(path)
    images = entries_of(path, data, "images", ("id", "file_name"))
    for n, image in enumerate(images):
        where = f"{path}, images[{n}].file_name"
        if not isinstance(image["file_name"], str):
            raise UserError(f"{where}: expected text, found {image['file_name']!r}; quote it")
        check_characters(where, image["file_name"])
    _refuse_repeated(str(path), "images[].id", (image["id"] for image in images))
    _refuse_repeated(str(path), "images[].file_name", (image["file_name"] for image in images))
    captions: dict[Any, list[Any]] = {image["id"]: [] for image in images}
    if "annotations" not in data:
        return images, captions  # an image info file has no captions
    annotations = entries_of(path, data, "annotations", ("id", "image_id", "caption"))
    _refuse_repeated(str(path), "annotations[].id", (annotation["id"] for annotation in annotations))
    orphans = [annotation["id"] for annotation in annotations if annotation["image_id"] not in captions]
    if orphans:
        raise UserError(f"{path}: {len(orphans)} captions are of unknown images: annotation ids {listed(orphans)}")
    for annotation in annotations:
        captions[annotation["image_id"]].append(annotation["caption"])
    return images, captions


@DATASETS.register_module()
class KarpathyPhotos(PhotoSource):
    """Photos of a Karpathy split; key = file name; its raw sentences are references.

    Args:
        ann_file (str | Path): ``dataset_coco.json`` or ``dataset_flickr30k.json``.
        image_root (str | Path): folder of the photos; COCO's ``filepath``
            (``val2014``) below it is used if it is there.
        split (str): 'train' (which takes 'restval' too), 'val' or 'test'.

    Raises:
        UserError: if the json or photos are missing; for a damaged json, repeated names or an unknown split.
    """

    def __init__(self, ann_file: str | Path, image_root: str | Path, split: str) -> None:
        ann_file, image_root = Path(ann_file), Path(image_root)
        paths: dict[str, Path] = {}
        references = {}
        for n, image in karpathy_images(ann_file, read_json(ann_file), split):
            name = image.get("filename")
            if not name:
                raise UserError(f"{ann_file}, images[{n}]: no field 'filename'")
            if name in paths:
                raise UserError(f"{ann_file}, images[{n}]: the file name {name!r} occurs more than once")
            path, nested = (inside(image_root, n, ann_file) for n in (name, f"{image.get('filepath', '.')}/{name}"))
            paths[name] = nested if nested.is_file() or not path.is_file() else path
            references[name] = _clean_references(str(ann_file), name, [s["raw"] for s in image["sentences"]])
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
        UserError: if the csv or photos are missing; for a damaged csv, no image column, or unknown ``keys``.
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
                raise UserError(f"{csv}: no image column; name it 'image' in the header")
            references.setdefault(caption.group, []).append(caption.text)
        paths = {key: inside(image_root, key, csv) for key in references}
        super().__init__(_choose(paths, keys, split, str(csv)), references, str(csv))


@DATASETS.register_module()
class ConcatPhotos(PhotoSource):
    """Several photo sources as one, e.g. the folders of a retrieval pool.

    Args:
        sources (Sequence[dict]): configs of photo sources, in this order.
        with_references (bool): keep the reference captions. ``False`` for a
            pool of unlabelled photos, whatever the sources know of them. Defaults to ``True``.

    Raises:
        UserError: if there is no source, or the same key occurs in two; the message names keys and sources.
    """

    def __init__(
        self,
        sources: Annotated[Sequence[Data], That("a list of one source or more", len)],
        with_references: bool = True,
    ) -> None:
        parts: list[PhotoSource] = [DATASETS.build(source) for source in sources]
        paths: dict[str, Path] = {}
        references: dict[str, list[str]] = {}
        owner: dict[str, str] = {}
        domains: dict[str, str] = {}
        for part in parts:
            repeated = [key for key in part.keys if key in owner]
            if repeated:
                raise UserError(
                    f"{len(repeated)} photos of {part.origin} have keys that {owner[repeated[0]]} has too: "
                    f"{listed(repeated)}; keys must be unique over all sources"
                )
            for index, key in enumerate(part.keys):
                owner[key] = part.origin
                paths[key] = part.path(index)
                if (domain := part.domain(index)) is not None:
                    domains[key] = domain
                if with_references:
                    references[key] = part.references(index)
        origin = " + ".join(part.origin for part in parts) or "ConcatPhotos(sources=[])"
        super().__init__(paths, references, origin, domains)
