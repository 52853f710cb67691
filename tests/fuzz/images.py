"""Files of photos."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from .mutations import change_bytes, one_of
from .running import Change, Kind
from .watch import TOKEN

_OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("RGB", "PNG", {}),
    "png16": ("I;16", "PNG", {}),
    "pngp": ("P", "PNG", {"transparency": 0}),
    "jpg": ("RGB", "JPEG", {}),
    "jpgp": ("L", "JPEG", {"progressive": True}),
    "cmyk": ("CMYK", "JPEG", {}),
    "turned": ("RGB", "JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    "gif": ("P", "GIF", {"save_all": True}),
    "webp": ("RGB", "WEBP", {}),
    "webpl": ("RGBA", "WEBP", {"lossless": True}),
    "bmp": ("RGB", "BMP", {}),
    "tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiffr": ("RGBA", "TIFF", {}),
    **({"heic": ("RGB", "HEIF", {"quality": 95})} if importlib.util.find_spec("pillow_heif") else {}),
}


class Images(Kind):
    name = "images"
    variants = tuple(_OPTIONS)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import numpy as np
        from PIL import Image

        from synthcap_mm.images import image_extensions

        image_extensions()  # registers HEIF with Pillow
        pixels = np.random.default_rng(0).integers(0, 80, (40, 56, 3), dtype=np.uint8)
        pixels += np.linspace(0, 170, 56, dtype=np.uint8)[:, None]
        picture = Image.fromarray(pixels)
        for name, (mode, kind, options) in _OPTIONS.items():
            (folder / f"good_{name}").mkdir()
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
            more = {"append_images": [image]} if "save_all" in options else {}
            image.save(folder / f"good_{name}/photo", format=kind, **options, **more)

    def change(self, case: Path, rng: random.Random) -> Change:
        file = self.lay(case, rng) / "photo"
        what = one_of(
            rng,
            (8, lambda: change_bytes(file, rng)),
            (3, lambda: _numbers(file, rng)),
            (1, lambda: _foreign(file, rng, case)),
            (1, lambda: _bomb(file, rng)),
        )
        # A file that is cut short tells it, and PNG has checksums.
        told = ": cut" in what or (self.variant.startswith("png") and "bytes at" in what and "append" not in what)
        return Change(f"{self.variant}: {what}", told)

    def use(self, folder: Path) -> Any:
        from synthcap_mm.inference.inputs import PhotoInput, load_input

        path = str(folder / "photo")
        image = load_input(PhotoInput(path, path))
        return [image.mode, image.size, hashlib.sha256(image.tobytes()).hexdigest()]

    def refuses(self, error: BaseException) -> bool:
        """The inferencer reports these beside the photo's name, and goes on with the others."""
        from synthcap_mm.errors import UserError

        return isinstance(error, (ValueError, OSError, UserError)) and "photo" in str(error)

    def wrong(self, result: Any) -> str | None:
        return None if result[0] == "RGB" and min(result[1]) > 0 else f"a picture of {result[:2]}"


def _numbers(file: Path, rng: random.Random) -> str:
    """Lies in the numbers of a file's beginning: sizes, offsets, counts; a PNG's header with a right checksum."""
    data = bytearray(file.read_bytes())
    number = rng.choice((0, 1, 2**31, 2**32 - 1, 2**16, 65_500, rng.randrange(1 << 16)))
    order, size = rng.choice("<>"), rng.choice((2, 4))
    at = 16 + 4 * rng.randrange(2) if data.startswith(b"\x89PNG") else rng.randrange(4, min(len(data) - 4, 80))
    data[at : at + size] = struct.pack(order + {2: "H", 4: "I"}[size], number % (1 << (8 * size)))
    if data.startswith(b"\x89PNG"):
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    file.write_bytes(data)
    return f"{number} of {size} at {at}"


def _foreign(file: Path, rng: random.Random, case: Path) -> str:
    """Another thing by a photo's name."""
    from PIL import Image

    victim = case / TOKEN
    stream = io.BytesIO()
    kind = rng.choice(("TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "IM", "DDS", "JPEG2000", "MSP", "XBM"))
    Image.new("L", (8, 8)).convert("1" if kind in ("MSP", "XBM") else "RGB").save(stream, format=kind)
    things = {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(" + str(victim).encode()
        + b") (w) file closefile\nshowpage\n%%EOF\n",
        "PDF": b"%PDF-1.4\n%%EOF\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "HTML": b"<!doctype html><script src='http://127.0.0.1:9/x'></script>",
        "FITS": b"SIMPLE  =                    T" + b" " * 2850,
        "XPM": b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #000000", "a"};',
        "WMF": b"\xd7\xcd\xc6\x9a" + b"\0" * 60,
        "FLI": b"\x80\0\0\0\x11\xaf" + b"\1\0" * 61,
        "MVG": b"push graphic-context\nfill 'url(http://127.0.0.1:9/x)'",
        kind: stream.getvalue(),
        "nothing": b"",
        "zip": b"PK\x03\x04" + b"\0" * 30,
    }  # fmt: skip
    name = rng.choice(list(things))
    file.write_bytes(things[name])
    return f"it is {name}"


def _bomb(file: Path, rng: random.Random) -> str:
    """Few bytes, many pixels, or much text."""
    width, height = rng.choice(((30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (12_000, 12_000), (100_000, 1_700)))
    header = struct.pack(
        ">IIBBBBB", width, height, rng.choice((1, 8, 16)), rng.choice((0, 2)), 0, 0, rng.choice((0, 1))
    )
    packed = zlib.compress(b"\0" * rng.choice((1000, 10_000_000, 50_000_000)))
    text = zlib.compress(b"x" * 50_000_000)
    chunks = [(b"IHDR", header), *rng.choice(([], [(b"zTXt", b"k\0\0" + text)], [(b"iCCP", b"k\0\0" + text)])),
              (b"IDAT", packed), (b"IEND", b"")]  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    file.write_bytes(data)
    return f"a bomb of {width} × {height}, {[name.decode() for name, _ in chunks]}"
