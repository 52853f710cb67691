"""Photos in files: which of a folder's files they are, and how one is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

#: Extensions that a folder's photos are known by.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

#: Most pixels of a photo that is decoded, in all: about 540 MB of memory. Pillow's own limit, as of version 13.
MAX_PIXELS = 178_956_970


def find_images(root: str | Path, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> dict[str, Path]:
    """All photos under a folder, in subfolders too; hidden files and folders are left out.

    Args:
        root: the folder.
        extensions: those of photos, in any case. Default :data:`IMAGE_EXTENSIONS`.

    Returns:
        dict[str, Path]: path relative to ``root``, with '/', to the file; sorted.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it holds no photo.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"the photo folder {root} does not exist (it is relative to {Path.cwd()})")
    wanted = {extension.lower() for extension in extensions}
    paths = {}
    for path in root.rglob("*"):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in wanted and not hidden and path.is_file():
            paths[relative.as_posix()] = path
    if not paths:
        raise ValueError(f"no photo in {root} (looked for {', '.join(sorted(wanted))}, in subfolders too)")
    return {key: paths[key] for key in sorted(paths)}


def upright_rgb(image: Image) -> Image:
    """An opened picture as RGB with 8 bits a channel, turned upright as its EXIF orientation says.

    Of an animation it is the first frame. 16-bit greys are scaled to 8 bits (Pillow alone would
    cut them, which turns nearly all of a picture white).
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        import numpy as np
        from PIL import Image

        values = np.asarray(image)
        # Mode "I" is whatever its file held; a picture with no value above 255 is one of 8 bits.
        if image.mode != "I" or values.max(initial=0) > 255:
            values = values.astype(np.int64) >> 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def read_image(file: str | Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """A photo as :func:`upright_rgb` makes it.

    Args:
        file: path of the file, or its content.
        name: what it is called in messages. Default: the path.
        max_pixels: more are refused, before they are decoded. Default :data:`MAX_PIXELS`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not decode; the message names it and says why.
    """
    from PIL import Image, UnidentifiedImageError

    name = str(file) if name is None else name
    problem = f"the photo {name} does not decode"
    if not isinstance(file, bytes):
        if Path(file).is_dir():
            raise ValueError(f"{problem}: it is a folder")
        if Path(file).stat().st_size == 0:
            raise ValueError(f"{problem}: the file is empty (0 bytes)")
    elif not file:
        raise ValueError(f"{problem}: it is empty (0 bytes)")
    too_large = f"{problem}: it has more than {max_pixels / 1e6:.0f} million pixels; make it smaller"
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as photo:
            if photo.width * photo.height > max_pixels:
                raise ValueError(too_large)
            return upright_rgb(photo)
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{problem}: it is no image, or of a format that Pillow does not know") from error
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files, SyntaxError among them
        if str(error).startswith(problem):
            raise
        raise ValueError(f"{problem}: {type(error).__name__}: {error}") from error
