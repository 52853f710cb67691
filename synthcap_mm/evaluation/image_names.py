"""Which image a name means: files name the same images by number, by file name, with more or fewer folders."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from mmengine.logging import print_log

from synthcap_mm.errors import shown


def coco_number(name: str) -> str | None:
    """COCO's number of an image: the twelve digits, no more, that its file's name ends with.

    ``'val2014/COCO_val2014_000000000042.jpg'`` is ``'42'``; ``'cat_1.jpg'`` has none.
    """
    found = re.search(r"(?<![0-9])[0-9]{12}\Z", PurePosixPath(name).stem)
    return str(int(found[0])) if found else None


def find_images(names: Iterable[str], images: Mapping[str, Sequence[str]], where: str) -> dict[str, str]:
    """The image that each name means.

    What an image is called counts first, then COCO's number. What is left is joined by shorter names: one of the two is
    the end of the other, whole parts of its path with or without extension (``'a/1.jpg'`` and ``'1'`` for
    ``'photos/a/1.jpg'``); the longest first, and only where it is unique on both sides. How many were joined so is
    logged, in one line. Different folders are never taken for the same: ``'a/1.jpg'`` is not ``'b/1.jpg'``.

    Args:
        names: in one file.
        images: what the other calls each of its images, by the image's key.
        where: the other file, for the log.

    Returns:
        Key of the image by name. Names that mean no image, or might mean several, are left out.
    """
    names = list(dict.fromkeys(names))
    owners = _owners(images)
    found = {}
    for name in names:
        key = next((owners[n] for n in (name, coco_number(name)) if n in owners), None)
        if key is not None:
            found[name] = key
    taken = set(found.values())
    free = {key: own for key, own in images.items() if key not in taken}
    short = _by_ends([name for name in names if name not in found], free)
    if short:
        name, key = next(iter(short.items()))
        print_log(
            f"{len(short)} of {len(names)} images are joined with those of {where} by the end of their names, which is "
            f"unique on both sides: {shown(name)!r} with {shown(key)!r}" + (", …" if len(short) > 1 else ""),
            logger="current",
            level=logging.WARNING,
        )
    return found | short


def _owners(images: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The image of each name and COCO number; a file's own names count before the numbers in them."""
    owners: dict[str, str] = {}
    for form in (str, coco_number):
        keys: dict[str, set[str]] = {}
        for key, own in images.items():
            for name in {form(name) for name in own} - {None}:
                keys.setdefault(name, set()).add(key)
        owners |= {name: next(iter(of)) for name, of in keys.items() if len(of) == 1 and name not in owners}
    return owners


def _ends(name: str) -> list[str]:
    """A name and what is left of it without its first folders, and of each the same without extension."""
    parts = PurePosixPath(name).parts
    ends = ["/".join(parts[start:]) for start in range(parts[:1] == ("/",), len(parts))]
    suffix = PurePosixPath(name).suffix
    return list(dict.fromkeys([*ends, *(end.removesuffix(suffix) for end in ends)]))


def _by_ends(names: Sequence[str], images: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Names and images, joined where one is the other's end and fits nothing else as well."""
    wholes: dict[str, set[str]] = {}
    parts: dict[str, set[str]] = {}
    for key, own in images.items():
        # A number is no file's name where the image has one.
        for name in [name for name in own if not name.isdigit()] or own:
            ends = _ends(name)
            for index, some in ((wholes, ends[:1]), (parts, ends)):
                for end in some:
                    index.setdefault(end, set()).add(key)
    pairs: dict[int, set[tuple[str, str]]] = {}
    for name in names:
        ends = _ends(name)
        for end in ends:
            keys = parts.get(end, set()) if end == ends[0] else wholes.get(end, set())
            pairs.setdefault(len(end), set()).update((name, key) for key in keys)
    found: dict[str, str] = {}
    settled: tuple[set[str], set[str]] = set(), set()
    for _, same_length in sorted(pairs.items(), reverse=True):
        left = sorted((n, k) for n, k in same_length if n not in settled[0] and k not in settled[1])
        counts = Counter(n for n, _ in left), Counter(k for _, k in left)
        found |= {n: k for n, k in left if counts[0][n] == counts[1][k] == 1}
        settled[0].update(counts[0])  # a name that fits two images as well as each other means neither
        settled[1].update(counts[1])
    return found
