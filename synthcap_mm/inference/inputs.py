"""What can be captioned: paths, addresses, images, arrays, features."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.files import all_files
from synthcap_mm.images import MAX_PIXELS, decoding, find_images, read_image, upright_rgb
from synthcap_mm.inference.fetching import fetch
from synthcap_mm.structures import CaptionSample


class PhotoInput(NamedTuple):
    """One thing to be captioned.

    Attributes:
        key: what results call it: the path or the address as it was given, ``'input 3'`` for what has none.
        source: the path or address, the image, array, tensor or feature, or the sample; the error for a folder that
            cannot be listed.
    """

    key: str
    source: Any


def is_url(text: str) -> bool:
    """Whether a text is an address to fetch from."""
    return text.lower().startswith(("http://", "https://"))


def identity(item: PhotoInput) -> tuple[str, int, int] | str:
    """What tells an input from all others: of a file its real path, bytes and time of change in ns; else the key."""
    if isinstance(item.source, str) and not is_url(item.source):
        with contextlib.suppress(OSError, ValueError):  # no such file; no name of a file
            status = os.stat(item.source)
            return os.path.realpath(item.source), status.st_size, status.st_mtime_ns
    return item.key


def _of_text(text: str) -> Iterator[PhotoInput]:
    unreadable: list[OSError] = []
    # os.path's functions are False for what cannot be looked at, too long names among it.
    if is_url(text) or os.path.isfile(text):
        found = [text]
    elif os.path.isdir(text):
        found = [str(path) for path in find_images(text, on_error=unreadable.append).values()]
    elif glob.has_magic(text):
        found = _matching(text, unreadable.append)
        if not found and not unreadable:
            raise UserError(f"no file matches the pattern {text!r} (looked in {Path.cwd()})")
    else:
        # Missing files are reported the same way as files that do not decode, so that the others are captioned.
        found = [text]
    yield from (PhotoInput(name, name) for name in found)
    yield from (PhotoInput(str(error.filename), error) for error in unreadable)


def _matching(pattern: str, on_error: Callable[[OSError], None]) -> list[str]:
    """Files that a pattern matches, sorted; ``**`` enters each folder once, whatever links lead to it."""
    head, *tail = re.split(r"(?:^|(?<=/))\*\*(?:/|$)", pattern, maxsplit=1)
    if not tail:
        return sorted(name for name in glob.glob(pattern) if os.path.isfile(name))
    parts = ["**", *filter(None, tail[0].split("/"))]
    if parts[-1] == "**":
        parts.append("*")
    found = []
    for root in glob.glob(head or "."):
        for path in all_files(root, any(part.startswith(".") for part in parts), on_error):
            if _fits(path.relative_to(root).parts, parts) and os.path.isfile(path):
                found.append(str(path))
    return sorted(found)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a path fit the parts of a pattern."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return _fits(names, parts[1:]) or _fits(names[1:], parts)
    return fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def is_feature(value: Any) -> bool:
    """Whether an array or tensor is a feature ``(D,)`` (floating point, one dimension) or several ``(N, D)``."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.ndim in (1, 2)
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim in (1, 2)


def iter_inputs(inputs: Any) -> Iterator[PhotoInput]:
    """The inputs one by one.

    Args:
        inputs: one of these, or a list or any other iterable of them (read as it is needed):
            a path; an address (http, https); a folder (its photos, in subfolders too); a pattern
            (``'photos/**/*.jpg'``); bytes of an image file; a PIL image; an array or tensor of one image, or
            of several with one more dimension in front; ready features ``(D,)`` or ``(N, D)``, floating point; a
            :class:`~synthcap_mm.structures.CaptionSample` with feature and tags.

    Raises:
        UserError: for a folder without photos, and a pattern that matches nothing.
        TypeError: for anything else; it is named.
    """
    for number, item in enumerate(_walk(inputs)):
        yield item._replace(key=f"input {number}") if item.key is None else item


def _walk(value: Any) -> Iterator[PhotoInput]:
    """The inputs, those without a name with ``key=None``."""
    if isinstance(value, (str, os.PathLike)):
        yield from _of_text(os.fspath(value))
    elif isinstance(value, CaptionSample):
        yield PhotoInput(value.key, value)
    elif isinstance(value, PhotoInput):
        yield value
    elif isinstance(value, (bytes, Image.Image)):
        yield PhotoInput(None, value)
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        several = value.ndim == (2 if is_feature(value) else 4)
        yield from (PhotoInput(None, one) for one in (value if several else [value]))
    elif isinstance(value, Iterable) and not isinstance(value, dict):
        for one in value:
            yield from _walk(one)
    else:
        raise TypeError(
            f"cannot caption a {type(value).__name__}: give a path, URL, folder, pattern, PIL image, array, "
            "tensor, feature, or a list of them"
        )


def _of_array(array: np.ndarray, key: str, channel_order: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"{key} is an array of shape {array.shape} and dtype {array.dtype}; an image is (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4) of uint8, a feature (D,) of floats"
        )
    if channels == 1:
        array = array.reshape(array.shape[:2])
    elif channel_order == "bgr":
        array = array[:, :, [2, 1, 0, 3][:channels]]
    return Image.fromarray(np.ascontiguousarray(array))


def _of_tensor(tensor: torch.Tensor, key: str) -> Image.Image:
    floating = tensor.is_floating_point()
    fits = tensor.ndim == 3 and tensor.shape[0] in (1, 3) and 0 not in tensor.shape
    if not fits or not (floating or tensor.dtype == torch.uint8):
        raise ValueError(
            f"{key} is a tensor of shape {tuple(tensor.shape)} and {tensor.dtype}; an image is (3, H, W) or (1, H, W) "
            "of uint8, or of floats in [0, 1], a feature (D,) of floats"
        )
    tensor = tensor.detach().cpu()
    if floating:
        if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError(f"{key} is an image of floats outside [0, 1]: give it before it is normalised")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return _of_array(tensor.permute(1, 2, 0).numpy(), key, "rgb")


def load_input(
    item: PhotoInput,
    channel_order: str = "bgr",
    max_pixels: int = MAX_PIXELS,
    allow_private_redirects: bool = False,
) -> Image.Image | torch.Tensor | CaptionSample:
    """The image of an input (:func:`~synthcap_mm.images.upright_rgb`); a feature ``(D,)`` at length 1; a sample itself.

    Args:
        item: the input.
        channel_order: ``'bgr'`` or ``'rgb'``, of arrays with colours. Default ``'bgr'``, as OpenCV and mmcv
            read images. Tensors are RGB, as torchvision's.
        max_pixels: see :func:`~synthcap_mm.images.read_image`.
        allow_private_redirects: see :func:`~synthcap_mm.inference.fetching.fetch`. Default ``False``.

    Raises:
        ValueError: if it cannot be fetched, does not decode, or is no image; the message names it.
        OSError: if the file cannot be read.
    """
    source = item.source
    if isinstance(source, OSError):
        raise source
    if isinstance(source, CaptionSample):
        if source.feat is None:
            raise ValueError(f"{item.key} is a CaptionSample without a feature; give its image itself")
        return source
    if isinstance(source, (str, os.PathLike)):
        if is_url(str(source)):
            return read_image(fetch(str(source), allow_private_redirects), item.key, max_pixels)
        return read_image(source, item.key, max_pixels)
    if isinstance(source, bytes):
        return read_image(source, item.key, max_pixels)
    if is_feature(source):
        feature = torch.as_tensor(source).detach().float().cpu()
        norm = float(feature.norm())
        if not 0 < norm < float("inf"):  # NaN fails both comparisons
            raise ValueError(f"{item.key} is not a feature: its norm is {norm}")
        return feature / norm
    if isinstance(source, torch.Tensor):
        source = _of_tensor(source, item.key)
    elif not isinstance(source, Image.Image):
        source = _of_array(source, item.key, channel_order)
    with decoding(item.key):  # a file may have been opened and not read yet
        return upright_rgb(source, item.key)
