"""Image files: which of a folder's files they are, and how one is read."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthcap_mm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Extensions by which a folder's images are known.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

#: Most pixels of an image that is decoded: about 540 MB of memory. Pillow's own limit, as of version 13.
MAX_PIXELS = 178_956_970


def _raise(error: OSError) -> None:
    raise error


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:  # reported where it is read
        return True
    except OSError:  # a link to nowhere
        return False


def find_images(
    root: str | Path,
    extensions: Sequence[str] = IMAGE_EXTENSIONS,
    on_error: Callable[[OSError], None] = _raise,
) -> dict[str, Path]:
    """All images in a folder and its subfolders, without hidden files and folders.

    Args:
        root: the folder.
        extensions: those of images, in any case. Default :data:`IMAGE_EXTENSIONS`.
        on_error: called with the error of each folder that cannot be listed. Default: raise it.

    Returns:
        dict[str, Path]: path relative to ``root``, with '/', to the file; sorted.

    Raises:
        UserError: if the folder does not exist, or holds no image and could be listed.
        OSError: see ``on_error``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the photo folder {root} does not exist (it is relative to {Path.cwd()})")
    wanted = {extension.lower() for extension in extensions}
    paths, errors = {}, []

    def failed(error: OSError) -> None:
        errors.append(error)
        on_error(error)

    for folder, subfolders, names in os.walk(root, onerror=failed):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in wanted and _is_file(path):
                paths[path.relative_to(root).as_posix()] = path
    if not paths and not errors:
        raise UserError(f"no photo in {root} (looked for {', '.join(sorted(wanted))}, in subfolders too)")
    return {key: paths[key] for key in sorted(paths)}


def upright_rgb(image: Image) -> Image:
    """An opened image as RGB with 8 bits a channel, turned upright as its EXIF orientation says.

    Of an animation it is the first frame. 16-bit greys are scaled to 8 bits; Pillow alone
    would cut them, which turns nearly all of an image white.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        import numpy as np
        from PIL import Image

        values = np.asarray(image)
        # Mode "I" is whatever its file held; an image with no value above 255 is one of 8 bits.
        if image.mode != "I" or values.max(initial=0) > 255:
            values = values.astype(np.int64) >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def read_image(file: str | Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image; stores, photo sources, the inferencer and the page all read images with this function.

    Args:
        file: path of the file, or its content.
        name: what messages call it. Default: the path.
        max_pixels: larger images are refused before they are decoded. Default :data:`MAX_PIXELS`.

    Returns:
        The image as :func:`upright_rgb` makes it.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it does not decode; the message names it and says why.
    """
    from PIL import Image, UnidentifiedImageError

    problem = f"the photo {file if name is None else name} does not decode"
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    if not content:
        raise ValueError(f"{problem}: the file is empty (0 bytes)")
    too_large = f"{problem}: it has more than {max_pixels / 1e6:.0f} million pixels; make it smaller"
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height <= max_pixels:
                return upright_rgb(image)
    except Image.DecompressionBombError:
        pass
    except UnidentifiedImageError as error:
        raise ValueError(f"{problem}: it is no image, or of a format that Pillow does not know") from error
    except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError among them
        raise ValueError(f"{problem}: {type(error).__name__}: {error}") from error
    raise ValueError(too_large)
