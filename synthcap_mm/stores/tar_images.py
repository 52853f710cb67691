"""Kept images: tar shards that any WebDataset reader reads, and ours by row.

Shard i of the images table has its pictures in ``images_tar/0000i.tar``, in the
order of its rows: ``KEY.png`` (or ``.jpg``), then ``KEY.txt`` with the caption.
The bytes depend on pictures and captions only: no dates, users or modes of the machine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

#: The table of kept images in the manifest.
IMAGES_TAR = "images_tar"
#: Format → what Pillow is told. PNG gives back every pixel; JPEG is about a tenth of it.
IMAGE_FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def member_name(key: str) -> str:
    """The key as a name inside a tar: never absolute, never upward, with no dot in its last part.

    WebDataset takes a name's last part up to its first dot as the sample's key.
    """
    head, _, last = key.replace("%", "%25").replace("\0", "%00").rpartition("/")
    parts = [part if part not in ("", ".", "..") else (part.replace(".", "%2E") or "%") for part in head.split("/")]
    return "/".join([*parts, last.replace(".", "%2E")] if head else [last.replace(".", "%2E") or "%"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # its owner, mode and date are fixed
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


class TarImageWriter:
    """Pictures into an open file, one after another.

    Args:
        file: binary file to write to.
        image_format: ``'png'`` or ``'jpg'``.
    """

    def __init__(self, file: BinaryIO, image_format: str) -> None:
        self.image_format = image_format
        self.rows = 0
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - see close

    def add(self, key: str, image: Image, caption: str) -> None:
        """Append a picture and its caption."""
        data = io.BytesIO()
        image.convert("RGB").save(data, **IMAGE_FORMATS[self.image_format])
        name = member_name(key)
        _add(self._tar, f"{name}.{self.image_format}", data.getvalue())
        _add(self._tar, f"{name}.txt", caption.encode())
        self.rows += 1

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()


class TarImages:
    """Kept images of a store, by row.

    Args:
        root: the store's folder.
        records: the tar shards' records, in order.
    """

    def __init__(self, root: Path, records: Sequence[dict[str, Any]]) -> None:
        self._root, self._records = root, list(records)
        self._starts = np.cumsum([0] + [r["rows"] for r in self._records])
        self._places: dict[int, list[tuple[int, int]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple:
        return type(self), (self._root, self._records)

    def read(self, row: int) -> bytes:
        """The file of one picture.

        Raises:
            IndexError: for a row that is not there.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside the {len(self)} kept images")
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        path = self._root / self._records[shard]["file"]
        if shard not in self._places:
            # Places, not an open file: workers that fork would share its position.
            with tarfile.open(path, mode="r:") as tar:
                self._places[shard] = [(m.offset_data, m.size) for m in tar if not m.name.endswith(".txt")]
        offset, size = self._places[shard][row - int(self._starts[shard])]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def image(self, row: int) -> Image:
        """One picture, decoded."""
        from PIL import Image as PILImage

        image = PILImage.open(io.BytesIO(self.read(row)))
        image.load()
        return image
