"""Kept pictures: tar shards that any WebDataset reader reads, and ours by row.

Shard i of a store's ``pictures`` table is a tar with the pictures of shard i of its images, in the order of the
rows: ``KEY.png`` (or ``.jpg``), then ``KEY.txt`` with the caption. The bytes depend on pictures and captions only: no
dates, users or modes of the machine. An Arrow file of the same name says where each picture lies.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from synthcap_mm.images import decoding, open_image
from synthcap_mm.store.errors import StoreError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Format → what Pillow is told. PNG gives back every pixel; JPEG is about a tenth of it.
PICTURE_FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def encode_picture(image: Image, picture_format: str) -> bytes:
    """A picture as the bytes of a file.

    Args:
        image: the picture.
        picture_format: ``'png'`` or ``'jpg'``.
    """
    data = io.BytesIO()
    image.convert("RGB").save(data, **PICTURE_FORMATS[picture_format])
    return data.getvalue()


def decode_picture(data: bytes) -> Image:
    """The picture in the bytes of a file, pixel for pixel.

    Raises:
        StoreError: if it does not decode.
    """
    try:
        with decoding("that a store keeps"), open_image(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.convert("RGB")
    except ValueError as error:
        raise StoreError(str(error)) from error


def member_name(key: str) -> str:
    """The key as a name inside a tar: never absolute, never upward, with no dot in its last part.

    WebDataset takes a name's last part up to its first dot as the sample's key.
    """
    head, _, last = key.replace("%", "%25").replace("\0", "%00").rpartition("/")
    parts = [part if part not in ("", ".", "..") else (part.replace(".", "%2E") or "%") for part in head.split("/")]
    return "/".join([*parts, last.replace(".", "%2E")] if head else [last.replace(".", "%2E") or "%"])


def places_in(tar: Path) -> list[tuple[int, int]]:
    """Offset and size of each picture in a tar, in order."""
    with tarfile.open(tar, mode="r:") as members:
        return [(member.offset_data, member.size) for member in members if not member.name.endswith(".txt")]


class PictureTar:
    """Pictures into an open file, one after another.

    Args:
        file: binary file to write to.
        picture_format: ``'png'`` or ``'jpg'``.

    Attributes:
        count: pictures that were added.
    """

    def __init__(self, file: BinaryIO, picture_format: str) -> None:
        self.picture_format = picture_format
        self.count = 0
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - see close

    def add(self, key: str, data: bytes, caption: str) -> None:
        """Append a picture, as the bytes of its file, and its caption."""
        name = member_name(key)
        self._add(f"{name}.{self.picture_format}", data)
        self._add(f"{name}.txt", caption.encode())
        self.count += 1

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)  # its owner, mode and date are fixed
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()
