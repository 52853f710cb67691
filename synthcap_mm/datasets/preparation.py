"""From downloads to the layout that the configs expect, checked. Nothing is downloaded here."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synthcap_mm.datasets.caption_formats import RawCaption, entries_of, karpathy_images, read_captions, read_json
from synthcap_mm.errors import UserError, listed
from synthcap_mm.files import all_files, inside, write_atomically

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Recipe(NamedTuple):
    """What a dataset is made of.

    Attributes:
        title: for messages.
        annotations: name of the json, in the downloads as in the layout (below ``annotations/``).
        annotations_from: where to get it.
        photos_from: where to get them.
        photos: from the json and splits to ``{place in the layout: file name}``.
        needed: splits whose photos are needed.
        more: splits whose photos are taken on request.
        images: official number of images by split.
        captions: official number of captions by split.
    """

    title: str
    annotations: str
    annotations_from: str
    photos_from: str
    photos: Callable[[Path, Any, Sequence[str]], dict[str, str]]
    needed: tuple[str, ...]
    more: tuple[str, ...]
    images: dict[str, int]
    captions: dict[str, int]


def _coco_photos(path: Path, data: Any, splits: Sequence[str]) -> dict[str, str]:
    chosen = (image for split in splits for _, image in karpathy_images(path, data, split))
    return {f"{image['filepath']}/{image['filename']}": image["filename"] for image in chosen}


def _flickr_photos(path: Path, data: Any, splits: Sequence[str]) -> dict[str, str]:
    chosen = (image for split in splits for _, image in karpathy_images(path, data, split))
    return {f"images/{image['filename']}": image["filename"] for image in chosen}


def _nocaps_photos(path: Path, data: Any, splits: Sequence[str]) -> dict[str, str]:
    images = entries_of(path, data, "images", ["file_name"])
    return {f"val/{image['file_name']}": image["file_name"] for image in images}


_KARPATHY_ZIP = (
    "in caption_datasets.zip (Karpathy's splits), "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
)
#: The datasets, by the name of their folder.
RECIPES = {
    "coco": Recipe(
        title="COCO, Karpathy's splits",
        annotations="dataset_coco.json",
        annotations_from=_KARPATHY_ZIP,
        photos_from="val2014.zip holds the photos of val and test (and restval), train2014.zip those of train; "
        "https://cocodataset.org/#download",
        photos=_coco_photos,
        needed=("val", "test"),
        more=("train",),
        images={"train": 113287, "val": 5000, "test": 5000},
        captions={"train": 566747, "val": 25010, "test": 25010},
    ),
    "flickr30k": Recipe(
        title="Flickr30k, Karpathy's splits",
        annotations="dataset_flickr30k.json",
        annotations_from=_KARPATHY_ZIP,
        photos_from="flickr30k-images.tar.gz, on request from its authors: https://shannon.cs.illinois.edu/DenotationGraph/",
        photos=_flickr_photos,
        needed=("val", "test"),
        more=("train",),
        images={"train": 29000, "val": 1014, "test": 1000},
        captions={"train": 145000, "val": 5070, "test": 5000},
    ),
    "nocaps": Recipe(
        title="NoCaps, validation",
        annotations="nocaps_val_4500_captions.json",
        annotations_from="https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json",
        photos_from="each photo's address is the field coco_url of the json (they are of Open Images' validation set); "
        "https://nocaps.org/download",
        photos=_nocaps_photos,
        needed=("val",),
        more=(),
        images={"in-domain": 648, "near-domain": 2938, "out-domain": 914},
        captions={"in-domain": 6480, "near-domain": 29380, "out-domain": 9140},
    ),
}


class _Plan(NamedTuple):
    """What to do for one dataset.

    Attributes:
        wanted: files to lay out, and the download of each.
        photos: how many photos the dataset has, with those that are there already.
        problems: what is missing or wrong, a sentence each.
    """

    wanted: dict[Path, Path]
    photos: int
    problems: list[str]


def _files_by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """The files in some folders and their subfolders; of files of one name the first."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"the folder of downloads {folder} does not exist")
        for path in all_files(folder):
            if not path.name.startswith("."):
                found.setdefault(path.name, path)
    return found


def _is_jpeg(path: Path) -> bool:
    """Whether a file begins as a JPEG does; a download that failed is often empty, or a web page."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\xff\xd8"
    except OSError:
        return False


def _check_counts(recipe: Recipe, path: Path) -> list[str]:
    """What differs from the official numbers of images and captions; Karpathy's restval counts as train."""

    def split_of(raw: RawCaption) -> str:
        return "train" if raw.split == "restval" else raw.split or "no split"

    _, raws = read_captions(path)
    captions = Counter(map(split_of, raws))
    images = Counter(split for split, _ in {(split_of(raw), raw.group) for raw in raws})
    return [
        f"{path}: {split} has {found[split]:,} {what}; the official split has {official.get(split, 0):,}"
        for split in dict.fromkeys([*recipe.images, *captions])
        for what, found, official in (("images", images, recipe.images), ("captions", captions, recipe.captions))
        if found[split] != official.get(split, 0)
    ]


def _photos_of(recipe: Recipe, path: Path, root: Path, splits: Sequence[str]) -> dict[Path, str]:
    """Place and name of each photo."""
    try:
        photos = recipe.photos(path, read_json(path), splits)
        return {inside(root, place, path): str(name) for place, name in photos.items()}
    except KeyError as error:
        raise UserError(f"{path}: an image has no field {error}") from None


def _plan(recipe: Recipe, root: Path, downloads: dict[str, Path], splits: Sequence[str]) -> _Plan:
    """What to lay out in ``root``, and what is missing or wrong."""
    annotations = root / "annotations" / recipe.annotations
    source = annotations if annotations.is_file() else downloads.get(recipe.annotations)
    if source is None:
        missing = f"{recipe.annotations} is missing: {recipe.annotations_from}"
        return _Plan({}, 0, [missing, f"its photos are looked for once it is there: {recipe.photos_from}"])
    try:
        problems = _check_counts(recipe, source)
        names = _photos_of(recipe, source, root, splits)
    except UserError as error:
        return _Plan({}, 0, [str(error)])
    wanted = {place: downloads.get(name) for place, name in names.items() if not _is_jpeg(place)}
    missing = [place.name for place, download in wanted.items() if download is None]
    if missing:
        problems.append(
            f"{len(missing):,} of {len(names):,} photos ({', '.join(splits)}) are missing: {listed(missing, 3)}: "
            f"{recipe.photos_from}"
        )
    found = {place: download for place, download in wanted.items() if download is not None}
    bad = [download for download in found.values() if not _is_jpeg(download)]
    if bad:
        problems.append(f"{len(bad):,} photos are no JPEG files (downloads that failed?): {listed(bad, 3)}")
    if source != annotations:
        found[annotations] = source
    return _Plan(found, len(names), problems)


def _lay_out(place: Path, download: Path, copy: bool) -> None:
    if copy:
        with open(download, "rb") as source, write_atomically(place) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # a link to a download that is gone
    place.symlink_to(download.resolve())


def prepare(
    names: Sequence[str],
    out: str | Path,
    sources: Sequence[str | Path] = (),
    copy: bool = False,
    train_photos: bool = False,
    recipes: dict[str, Recipe] = RECIPES,
) -> list[str]:
    """Lay out datasets from folders of unpacked downloads, and check what is there.

    Nothing is laid out until all files were found and have the official numbers, so that one
    call names everything that is missing. Files that are there stay, and each file appears whole
    or not at all, so that a stopped call can be repeated.

    Args:
        names: of :data:`RECIPES`: 'coco', 'flickr30k', 'nocaps'.
        out: the folder of the layout; each dataset gets a folder of its name in it.
        sources: folders of downloads, searched with their subfolders; none: only check the layout.
        copy: copy files. Default ``False``: symbolic links to the downloads, which must
            then stay.
        train_photos: the photos of the training split too, which training from captions
            does not need. Default ``False``.
        recipes: for other datasets of these forms.

    Returns:
        One line for each dataset: what it has, what was laid out, what was there.

    Raises:
        UserError: with all that is missing and where to get it, wrong numbers, and photos that are no JPEG files.
    """
    downloads = _files_by_name([Path(source) for source in sources])
    plans = {}
    for name in names:
        splits = (*recipes[name].needed, *(recipes[name].more if train_photos else ()))
        plans[name] = _plan(recipes[name], Path(out) / name, downloads, splits)
    problems = [f"  - {recipes[name].title}: {problem}" for name, plan in plans.items() for problem in plan.problems]
    if problems:
        archives = [path for name, path in downloads.items() if name.endswith(_ARCHIVES)]
        packed = [f"  Archives are not searched; unpack them first: {listed(archives)}"] if archives else []
        raise UserError("\n".join([f"{len(problems)} thing(s) are missing or wrong:", *problems, *packed]))
    lines = []
    for name, plan in plans.items():
        for place, download in plan.wanted.items():
            _lay_out(place, download, copy)
        images = " / ".join(f"{split} {count:,}" for split, count in recipes[name].images.items())
        lines.append(
            f"{recipes[name].title}: {images} images; {plan.photos:,} photos; {len(plan.wanted):,} files placed; "
            f"in {Path(out) / name}"
        )
    return lines
