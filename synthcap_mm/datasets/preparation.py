"""From downloads to the layout that the configs expect, checked. Nothing is downloaded here."""

from __future__ import annotations

import fnmatch
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from synthcap_mm.datasets.caption_formats import karpathy_images, listed, read_captions, read_json

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class PreparationError(Exception):
    """Downloads that are missing, damaged or not the official ones; the message lists all of it."""


class Recipe(NamedTuple):
    """What a dataset is made of.

    Attributes:
        title: for messages.
        annotations: name of the json, in the downloads as in the layout (below ``annotations/``).
        annotations_from: where to get it.
        photos_like: pattern of the photos' names.
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
    photos_like: str
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
    return {f"val/{image['file_name']}": image["file_name"] for image in data["images"]}


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
        photos_like="COCO_*2014_*.jpg",
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
        photos_like="*.jpg",
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
        photos_like="*.jpg",
        photos_from="each photo's address is the field coco_url of the json (they are of Open Images' validation set); "
        "https://nocaps.org/download",
        photos=_nocaps_photos,
        needed=("val",),
        more=(),
        images={"in-domain": 648, "near-domain": 2938, "out-domain": 914},
        captions={"in-domain": 6480, "near-domain": 29380, "out-domain": 9140},
    ),
}


class _Downloads:
    """Files below some folders by name, and, where a name is not among them, members of the archives there."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.files: dict[str, Path] = {}
        self.archives: list[Path] = []
        for folder in folders:
            if not folder.is_dir():
                raise PreparationError(f"the folder of downloads {folder} does not exist")
            for root, folders_in, names in os.walk(folder, followlinks=True):
                folders_in.sort()
                for name in sorted(names):
                    path = Path(root, name)
                    if name.endswith(_ARCHIVES):
                        self.archives.append(path)
                    elif not name.startswith("."):
                        self.files.setdefault(name, path)
        self._members: dict[str, tuple[Path, str]] | None = None

    @property
    def members(self) -> dict[str, tuple[Path, str]]:
        """Name → archive and member; archives are listed when this is first asked for."""
        if self._members is None:
            self._members = {}
            for archive in self.archives:
                try:
                    for member in _list_archive(archive):
                        self._members.setdefault(PurePosixPath(member).name, (archive, member))
                except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
                    raise PreparationError(f"the archive {archive} is damaged ({error}); download it again") from error
        return self._members

    def find(self, name: str) -> Path | tuple[Path, str] | None:
        """The file, or archive and member."""
        return self.files.get(name) or (self.members.get(name) if self.archives else None)

    def has_like(self, pattern: str) -> bool:
        """Whether there is any file of such a name."""
        names = [*self.files, *(self.members if self.archives else ())]
        return bool(fnmatch.filter(names, pattern))


def _list_archive(archive: Path) -> list[str]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return [info.filename for info in opened.infolist() if not info.is_dir()]
    with tarfile.open(archive) as opened:
        return [member.name for member in opened if member.isfile()]


@contextmanager
def _written_at_once(target: Path) -> Iterator[Path]:
    """A name beside ``target`` to write; it becomes ``target`` when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: IO[bytes], target: Path) -> None:
    with _written_at_once(target) as part, open(part, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _place(found: dict[Path, Path | tuple[Path, str]], copy: bool) -> None:
    """Links or copies files, and unpacks members of archives, archive by archive."""
    packed: dict[Path, dict[str, Path]] = {}
    for target, source in found.items():
        if isinstance(source, tuple):
            packed.setdefault(source[0], {})[source[1]] = target
        elif copy:
            with open(source, "rb") as file:
                _copy(file, target)
        else:
            with _written_at_once(target) as part:
                part.symlink_to(source.resolve())
    for archive, wanted in packed.items():
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                for member, target in wanted.items():
                    with opened.open(member) as file:
                        _copy(file, target)
        else:
            with tarfile.open(archive) as opened:
                for member in opened:  # in the archive's order: a compressed one cannot be searched
                    file = opened.extractfile(member) if member.name in wanted else None
                    if file is not None:
                        _copy(file, wanted[member.name])


def _is_photo(path: Path) -> bool:
    """Whether the file begins as a JPEG does; a download that failed is often empty, or a web page."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\xff\xd8"
    except OSError:
        return False


def _count_problems(recipe: Recipe, path: Path) -> list[str]:
    """What differs from the official numbers of images and captions; Karpathy's restval counts as train."""
    _, raws = read_captions(path)
    groups: dict[str, set[str | None]] = {}
    captions: dict[str, int] = {}
    for raw in raws:
        split = "train" if raw.split == "restval" else raw.split or "no split"
        groups.setdefault(split, set()).add(raw.group)
        captions[split] = captions.get(split, 0) + 1
    problems = []
    for split in dict.fromkeys([*recipe.images, *groups]):
        for what, found, official in (
            ("images", len(groups.get(split, ())), recipe.images.get(split, 0)),
            ("captions", captions.get(split, 0), recipe.captions.get(split, 0)),
        ):
            if found != official:
                problems.append(f"{path}: {split} has {found:,} {what}; the official split has {official:,}")
    return problems


def _photos_of(recipe: Recipe, path: Path, splits: Sequence[str]) -> dict[str, str]:
    try:
        return recipe.photos(path, read_json(path), splits)
    except KeyError as error:
        raise ValueError(f"{path}: an image has no field {error}") from None


class _Plan(NamedTuple):
    found: dict[Path, Path | tuple[Path, str]]  # what is to be placed
    kept: int
    photos: list[Path]


def _plan(recipe: Recipe, root: Path, downloads: _Downloads, splits: Sequence[str], problems: list[str]) -> _Plan:
    """What to place where; what is missing or wrong is added to ``problems``."""
    found: dict[Path, Path | tuple[Path, str]] = {}
    annotations = root / "annotations" / recipe.annotations
    unpacked = False
    source: Path | tuple[Path, str] | None = annotations if annotations.is_file() else None
    if source is None:
        source = downloads.find(recipe.annotations)
        if source is None:
            problems.append(f"{recipe.annotations} is missing: {recipe.annotations_from}")
            if not downloads.has_like(recipe.photos_like) and not any(root.rglob(recipe.photos_like)):
                problems.append(f"no photo like {recipe.photos_like} is there: {recipe.photos_from}")
            return _Plan({}, 0, [])
        if isinstance(source, tuple):  # to be read, it has to be unpacked; the layout is where it goes anyway
            _place({annotations: source}, copy=True)
            source, unpacked = annotations, True
        else:
            found[annotations] = source
    assert isinstance(source, Path)
    try:
        wrong = _count_problems(recipe, source)
        names = _photos_of(recipe, source, splits)
    except ValueError as error:
        wrong, names = [str(error)], {}
    problems += wrong
    if wrong and unpacked:
        annotations.unlink()  # else it would be taken for the right one the next time
    photos = [root / place for place in names]
    missing = []
    for photo, name in zip(photos, names.values()):
        if _is_photo(photo):
            continue
        at = downloads.find(name)
        if at is None:
            missing.append(name)
        else:
            found[photo] = at
    if missing:
        problems.append(
            f"{len(missing):,} of {len(photos):,} photos ({', '.join(splits)}) are missing: {listed(missing, 3)}: "
            f"{recipe.photos_from}"
        )
    return _Plan(found, len(photos) - len(missing) - sum(photo in found for photo in photos), photos)


def prepare(
    names: Sequence[str],
    out: str | Path,
    sources: Sequence[str | Path] = (),
    copy: bool = False,
    train_photos: bool = False,
    recipes: dict[str, Recipe] = RECIPES,
) -> list[str]:
    """Lay out datasets from folders of downloads, and check what is there.

    The folders are searched, archives in them too. Nothing is placed until all
    that is needed was found and has the official numbers (only an annotations file
    within an archive is unpacked to be read), so that one call tells everything that
    is missing. What is already there is kept; each file appears
    whole or not at all, so that a stopped call is simply repeated.

    Args:
        names: of :data:`RECIPES`: 'coco', 'flickr30k', 'nocaps'.
        out: the folder of the layout; each dataset gets a folder of its name in it.
        sources: folders of downloads; none: only check the layout.
        copy: copy files. Default ``False``: symbolic links to the downloads, which must
            then stay. Members of archives are always unpacked.
        train_photos: the photos of the training split too, which training from captions
            does not need. Default ``False``.
        recipes: for other datasets of these forms.

    Returns:
        One line for each dataset: what it has, what was placed, what was there.

    Raises:
        ValueError: for an unknown name.
        PreparationError: with all that is missing and where to get it, wrong
            numbers, and photos that are none.
    """
    unknown = [name for name in names if name not in recipes]
    if unknown:
        raise ValueError(f"unknown datasets {', '.join(unknown)}; known: {', '.join(recipes)}")
    downloads = _Downloads([Path(source) for source in sources])
    problems: dict[str, list[str]] = {}
    plans: dict[str, _Plan] = {}
    for name in names:
        recipe = recipes[name]
        splits = (*recipe.needed, *(recipe.more if train_photos else ()))
        plans[name] = _plan(recipe, Path(out) / name, downloads, splits, problems.setdefault(name, []))
    _raise_if(problems, recipes)
    lines = []
    for name, plan in plans.items():
        _place(plan.found, copy)
        bad = [str(photo) for photo in plan.photos if not _is_photo(photo)]
        if bad:
            for photo in bad:  # a link to a damaged file would be found again
                Path(photo).unlink(missing_ok=True)
            problems[name].append(f"{len(bad):,} photos are no JPEG files (downloads that failed?): {listed(bad, 3)}")
        images = recipes[name].images
        lines.append(
            f"{recipes[name].title}: {' / '.join(f'{split} {count:,}' for split, count in images.items())} images; "
            f"{len(plan.photos):,} photos; {len(plan.found):,} files placed, {plan.kept:,} photos were there; "
            f"in {Path(out) / name}"
        )
    _raise_if(problems, recipes)
    return lines


def _raise_if(problems: dict[str, list[str]], recipes: dict[str, Recipe]) -> None:
    found = [f"  - {recipes[name].title}: {problem}" for name, listed_ in problems.items() for problem in listed_]
    if found:
        raise PreparationError(f"{len(found)} thing(s) are missing or wrong:\n" + "\n".join(found))
