"""Image files: which of a folder's files they are, and how one is read."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import re
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from synthcap_mm.errors import UserError, listed
from synthcap_mm.files import all_files, as_text

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

#: Formats that are opened, by Pillow's names; others start programs (EPS) or open further files. JPEG includes the MPO
#: files of cameras. HEIF is there with pillow-heif, the extra ``[heif]``.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

#: How pillow-heif is installed, whose files without it are known by their extension, and by their first bytes.
_HEIF, _HEIF_EXTENSIONS = "pip install pillow-heif", (".heic", ".heics", ".heif", ".heifs", ".hif")
_HEIF_CONTENT = re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)

#: Most pixels of an image that is decoded. Pillow's own limit, as of version 13.
MAX_PIXELS = 178_956_970

#: Longest side in units of the shorter one (assumed): an encoder enlarges the shorter side of a line to 224 or more.
MAX_RATIO = 200

#: Larger pictures are reduced while they are read. 800 is the shorter side at which mmdet's configs test
#: (``scale=(1333, 800)``); CLIP's encoders see 224 to 448.
SHORTER_SIDE, MAX_AREA = 800, 4_000_000

#: Pictures with more decoded pixels than this are read one at a time (assumed: 64 MB each).
LARGE = 16_000_000

_ONE_AT_A_TIME = threading.Lock()
_STRIP = 1 << 18  # pixels that are converted together
_ORIENTATION = 0x0112  # EXIF
_ORIGINAL_SIZE = ("synthcap_mm", "original size")  # in Image.info, where a file can only put texts as keys

# Once, since warnings.catch_warnings is not safe in threads. What matters in a file is an error here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:  # reported where it is read
        return True
    except OSError:  # a link to nowhere
        return False


@functools.cache
def image_extensions() -> frozenset[str]:
    """Extensions by which a folder's images are known: those that Pillow gives to the formats that are read."""
    from PIL import Image

    formats = {*_known_formats(), "MPO"}
    return frozenset(extension for extension, name in Image.EXTENSION.items() if name in formats)


def find_images(
    root: str | Path, extensions: Collection[str] | None = None, on_error: Callable[[OSError], None] | None = None
) -> dict[str, Path]:
    r"""All images in a folder and its subfolders, without hidden files and folders.

    The log tells how many other files are there, by extension.

    Args:
        root: the folder.
        extensions: those of images, in any case. Default: :func:`image_extensions`.
        on_error: called with the error of each folder that cannot be listed. Default: raise it.

    Returns:
        dict[str, Path]: path relative to ``root``, with '/', to the file; sorted. Bytes that are not UTF-8 are
            escaped in the first, as ``caf\xe9.png``: it is text wherever it goes.

    Raises:
        UserError: if the folder does not exist, or holds no image and could be listed.
        OSError: see ``on_error``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the photo folder {root} does not exist (it is relative to {Path.cwd()})")
    wanted = image_extensions() if extensions is None else {extension.lower() for extension in extensions}
    errors = []

    def failed(error: OSError) -> None:
        if on_error is None:
            raise error
        errors.append(error)
        on_error(error)

    paths: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in all_files(root, hidden=False, on_error=failed):
        if path.suffix.lower() in wanted and _is_file(path):
            paths[as_text(path.relative_to(root))] = path
        else:
            others[_kind(path, wanted)] += 1
    left_out = f"left out: {listed((f'{count} {kind}' for kind, count in others.most_common()), 10)}"
    if not paths and not errors:
        found = f"; {left_out}" if others else ""
        raise UserError(f"no photo in {root} (looked for {', '.join(sorted(wanted))}, in subfolders too{found})")
    if others:
        from mmengine.logging import print_log

        print_log(f"{as_text(root)}: {left_out}", logger="current")
    return {key: paths[key] for key in sorted(paths)}


def _kind(path: Path, wanted: Collection[str]) -> str:
    """What a file that is left out is called."""
    extension = path.suffix.lower()
    if extension in wanted:
        return f"{extension} (links to nowhere, or no files)"
    if extension in _HEIF_EXTENSIONS and extension not in image_extensions():
        return f"{extension} ({_HEIF})"
    return extension if re.fullmatch(r"\.\w{1,9}", extension) else "other"


def read_image(file: str | Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image; stores, photo sources, the inferencer and the page all read images with this function.

    A JPEG file is decoded at the least of its scales (1, 1/2, 1/4, 1/8) that suffices.

    Args:
        file: path of the file, or its content.
        name: what messages call it. Default: the path, or "the image".
        max_pixels: larger images are refused before they are decoded. Default :data:`MAX_PIXELS`.

    Returns:
        The image as :func:`upright_rgb` makes it.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it does not decode; the message names it and says why.
    """
    name = as_text(name or ("the image" if isinstance(file, bytes) else file))
    with (
        io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as stream,
        decoding(name),
        open_image(stream, max_pixels=max_pixels) as image,
    ):
        image.info[_ORIGINAL_SIZE] = image.size
        if (size := _reduced_size(image.size)) != image.size:
            image.draft(None, size)
        return upright_rgb(image, name)


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever goes wrong with the image inside is a ValueError that names it.

    Args:
        name: what messages call the image.
    """
    from PIL import UnidentifiedImageError

    problem = f"the photo {name} does not decode"
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{problem}: it is no image of a known format ({', '.join(_known_formats())})") from error
    except ValueError as error:
        raise ValueError(f"{problem}: {error}") from error
    except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError and MemoryError among them
        raise ValueError(f"{problem}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def open_image(stream: BinaryIO, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Iterator[Image]:
    """An image file, opened by Pillow and not decoded yet.

    Args:
        stream: the file. It has no name for Pillow, which opens nothing else.
        formats: those of :data:`FORMATS` that it may have. Default: all.
        max_pixels: see :func:`read_image`.

    Raises:
        ValueError: if it is empty, or has more pixels.
        Exception: whatever Pillow raises; see :func:`decoding`.
    """
    from PIL import Image, UnidentifiedImageError

    if not stream.seek(0, os.SEEK_END):
        raise ValueError("the file is empty (0 bytes)")
    too_large = f"it has more than {max_pixels / 1e6:.0f} million pixels; make it smaller"
    try:
        opened = Image.open(stream, formats=[name for name in _known_formats() if name in formats])
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError:
        stream.seek(0)
        if "HEIF" not in _known_formats() and _HEIF_CONTENT.match(stream.read(12)):
            raise ValueError(f"HEIC and HEIF files are read with pillow-heif ({_HEIF})") from None
        raise
    if opened.format == "PNG":  # Pillow does not compare a PNG's checksums when it decodes, and can use it no more then
        opened.verify()
        stream.seek(0)
        opened = Image.open(stream, formats=["PNG"])
    with contextlib.closing(opened):  # a plain `with` would keep its pixels
        if opened.width * opened.height > max_pixels:
            raise ValueError(too_large)
        yield opened


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Sets Pillow up; those of :data:`FORMATS` that it opens."""
    from PIL import Image

    # malloc gives what is larger than 32 MB back when it is freed; of Pillow's blocks of 16 MB each thread keeps many.
    Image.core.set_block_size(1 << 26)
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        # A thumbnail in the file may show something else than its picture.
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def upright_rgb(image: Image, name: str = "the image") -> Image:
    """An image as encoders and detectors take it: RGB with 8 bits a channel, upright, of a bounded size.

    It is turned as its EXIF orientation says; of an animation it is the first frame; what is transparent shows white;
    deep greys are scaled to 8 bits (:func:`_grey_range`). A shorter side above 800 pixels is reduced to 800, then an
    area above 4 million pixels to that; of other pictures no pixel changes.

    Args:
        image: the image, decoded or not.
        name: what the log calls it.

    Returns:
        A new image. :func:`original_size` knows its size before it was reduced.

    Raises:
        ValueError: if it is a line rather than a picture; see :data:`MAX_RATIO`.
        Exception: whatever Pillow raises; see :func:`decoding`.
    """
    from PIL import ImageOps

    size = original_size(image)
    if max(size) > MAX_RATIO * min(size):
        raise ValueError(f"its sides are {size[0]} x {size[1]} pixels; at most {MAX_RATIO}:1 is taken")
    with _lock_if_large(image):
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
        picture = _reduced_rgb(image, _reduced_size(image.size), name)
    picture.info.clear()
    if orientation != 1:
        picture.getexif()[_ORIENTATION] = orientation
        ImageOps.exif_transpose(picture, in_place=True)
        size = size[::-1] if orientation in (5, 6, 7, 8) else size
    if size != picture.size:
        picture.info[_ORIGINAL_SIZE] = size
    return picture


def original_size(image: Image) -> tuple[int, int]:
    """Width and height that an image had before :func:`upright_rgb` reduced it; boxes of tags are in these pixels."""
    return image.info.get(_ORIGINAL_SIZE, image.size)


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size to which a picture is reduced, with the same ratio of its sides."""
    scale = max(1.0, min(size) / SHORTER_SIDE, math.sqrt(size[0] * size[1] / MAX_AREA))
    return max(1, round(size[0] / scale)), max(1, round(size[1] / scale))


def _lock_if_large(image: Image) -> contextlib.AbstractContextManager:
    """Held while an image is decoded that needs much memory."""
    # A progressive JPEG file is kept whole before any of it is decoded, even at 1/8 of its scale.
    width, height = original_size(image) if "progressive" in image.info else image.size
    return _ONE_AT_A_TIME if width * height > LARGE else contextlib.nullcontext()


def _reduced_rgb(image: Image, size: tuple[int, int], name: str) -> Image:
    """A decoded image in RGB, at another size; strip by strip, since RGB may need more memory than the image."""
    from PIL import Image as PILImage

    grey_range = _grey_range(image, name)
    if size == image.size:
        return _to_rgb(image, grey_range)
    factor = max(1, min(image.width // size[0], image.height // size[1]))
    small = PILImage.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    for top, strip in _strips(image, factor):
        small.paste(_to_rgb(strip, grey_range).reduce(factor), (0, top // factor))
    box = (0, 0, image.width / factor, image.height / factor)
    return small.resize(size, PILImage.Resampling.BICUBIC, box)


def _strips(image: Image, factor: int = 1) -> Iterator[tuple[int, Image]]:
    """The upper row and the pixels of strips across an image, whose heights ``factor`` divides."""
    rows = max(1, _STRIP // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _to_rgb(image: Image, grey_range: tuple[float, float] | None) -> Image:
    from PIL import Image as PILImage

    if grey_range is not None:
        return _scaled_grey(image, *grey_range).convert("RGB")
    if image.has_transparency_data:
        white = PILImage.new("RGBA", image.size, "white")
        return PILImage.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image, low: float, high: float) -> Image:
    """A deep grey with 8 bits: ``low`` is black, ``high`` white; what is not a number is black."""
    import numpy as np
    from PIL import Image as PILImage

    values = np.asarray(image)
    of_16_bits = values.dtype.kind == "u" and values.dtype.itemsize == 2
    grey = _grey_table(low, high)[values] if of_16_bits else _scaled(values, low, high)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return PILImage.fromarray(grey)


@functools.lru_cache(8)
def _grey_table(low: float, high: float) -> np.ndarray:
    """:func:`_scaled` of all values of 16 bits, several times as fast as computing each pixel's."""
    import numpy as np

    return _scaled(np.arange(1 << 16), low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    import numpy as np

    with np.errstate(invalid="ignore"):  # infinite values
        scaled = (values.astype(np.float64) - low) * (256 / (high - low))
    return np.nan_to_num(scaled, copy=False, nan=0.0).clip(0, 255).astype(np.uint8)


def _grey_range(image: Image, name: str) -> tuple[float, float] | None:
    """Black and white of a decoded image with more than 8 bits of grey; ``None`` for every other image.

    A range that the format states is taken if it holds all values. Else it is the least usual range that holds them (8,
    10, 12, 14 or 16 bits, or 0 to 1), else their own; the log says so unless it is the usual one of the type.
    """
    if not image.mode.startswith(("I", "F")):
        return None
    tags = getattr(image, "tag_v2", {})  # of TIFF
    least, largest = _extremes(image)
    stated = [given for given in _stated_ranges(image, tags) if given[0] <= least and largest <= given[1]]
    usual = (1, 255, 1023, 4095, 16383, 65535) if image.mode == "F" else (255, 1023, 4095, 16383, 65535)
    fitting = [(0, high) for high in usual if least >= 0 and largest <= high]
    own = (least, largest if largest > least else least + max(1.0, abs(least)))
    low, high = [*stated, *fitting, own][0]
    if not stated and (low, high) != (0, 1 if image.mode == "F" else 65535):
        from mmengine.logging import print_log

        print_log(
            f"{name}: a grey picture of Pillow's mode {image.mode} with values from {least:g} to {largest:g}; nothing "
            f"tells which are black and white: {low:g} and {high:g} are taken",
            logger="current",
            level=30,
        )
    return (high, low) if tags.get(262) == 0 else (low, high)  # PhotometricInterpretation: white is zero


def _extremes(image: Image) -> tuple[float, float]:
    """The least and the largest value of a decoded grey image; 0 and 1 if none is finite."""
    import numpy as np

    found = []
    for _, strip in _strips(image):
        values = np.asarray(strip)
        if image.mode == "F":
            values = values[np.isfinite(values)]
        if values.size:
            found += [float(values.min()), float(values.max())]
    return (min(found), max(found)) if found else (0.0, 1.0)


def _stated_ranges(image: Image, tags: dict) -> Iterator[tuple[float, float]]:
    """Black and white of a deep grey as its format states them."""
    if image.mode != "F" and image.format in ("PPM", "JPEG2000"):
        yield 0, 65535  # Pillow has scaled them
    with contextlib.suppress(TypeError, ValueError, IndexError, KeyError):  # tags may hold anything
        low, high = (float(tags[tag][0] if isinstance(tags[tag], tuple) else tags[tag]) for tag in (340, 341))
        if low < high:  # SMinSampleValue, SMaxSampleValue
            yield low, high
    bits = tags.get(258, (16,))[0]  # BitsPerSample; 16 and 32 may hold fewer
    if image.mode != "F" and bits not in (16, 32):
        yield 0, 2**bits - 1
