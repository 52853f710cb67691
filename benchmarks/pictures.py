"""Reading pictures: per second and peak memory, against decoding all of their pixels; the worst case of each format.

Batches of 32 are read by two threads and brought to the 224 pixels of CLIP, as `caption` does it with them, each way in
a process of its own. --worst reads one picture of nearly 179 million pixels of each kind.

    python benchmarks/pictures.py [--photos 64] [--repeats 3] [--sides 4000 3000]
    python benchmarks/pictures.py --worst [--pixels 178000000]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from synthcap_mm.images import MAX_PIXELS, read_image

#: Name → extension, mode and options of a file.
KINDS = {
    "JPEG": (".jpg", "RGB", {"quality": 90}),
    "progressive JPEG": (".jpg", "RGB", {"quality": 90, "progressive": True}),
    "progressive JPEG, 4:4:4": (".jpg", "RGB", {"quality": 90, "progressive": True, "subsampling": 0}),
    "PNG, RGB": (".png", "RGB", {"compress_level": 1}),
    "PNG, RGBA": (".png", "RGBA", {"compress_level": 1}),
    "PNG, palette": (".png", "P", {"compress_level": 1}),
    "PNG, grey of 16 bits": (".png", "I;16", {"compress_level": 1}),
    "TIFF, RGB": (".tif", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, floats": (".tif", "F", {}),
    "WebP, lossless": (".webp", "RGB", {"lossless": True, "quality": 0, "method": 0}),
    "AVIF": (".avif", "RGB", {"quality": 60, "speed": 10}),
    "JPEG 2000": (".jp2", "RGB", {"quality_mode": "rates", "quality_layers": [20]}),
}
USUAL = ("JPEG", "progressive JPEG", "PNG, RGB")


def whole(path: Path) -> Image.Image:
    """As pictures were read before: all pixels, then copies of them upright and in RGB."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


WAYS = {"whole": whole, "reduced": read_image}


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Something with smooth and rough parts, quickly."""
    tile = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(tile).resize((512, 384), Image.Resampling.BICUBIC))
    rows, columns = -(-height // 384), -(-width // 512)
    return Image.fromarray(np.ascontiguousarray(np.tile(smooth, (rows, columns, 1))[:height, :width]))


def save(image: Image.Image, mode: str, path: Path, **options: object) -> None:
    if mode in ("I;16", "F"):
        values = np.asarray(image.convert("L"))
        image = Image.fromarray(values.astype(np.uint16) * 257 if mode == "I;16" else values.astype(np.float32) / 255)
    elif mode == "RGBA":
        image.putalpha(200)
    else:
        image = image.convert(mode)
    image.save(path, **options)


def peak() -> float:
    """MB that this process held at most. (getrusage would also count what its parent held.)"""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3


def child(way: str, folder: Path) -> None:
    """Read all pictures; print seconds, and MB of the peak that were not there before."""
    paths, read = sorted(folder.iterdir()), WAYS[way]
    Image.init()
    before, start = peak(), time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for first in range(0, len(paths), 32):
            for image in list(pool.map(read, paths[first : first + 32])):
                ImageOps.fit(image, (224, 224), Image.Resampling.BICUBIC)
    print(json.dumps([time.perf_counter() - start, peak() - before]))


def measure(way: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, __file__, "--child", way, str(folder)]
    return tuple(
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    )


def usual(sides: tuple[int, int], count: int, repeats: int) -> None:
    print(f"{count} pictures of {sides[0]} x {sides[1]}: least seconds of {repeats} runs, largest peak")
    for name in USUAL:
        suffix, mode, options = KINDS[name]
        with tempfile.TemporaryDirectory() as place:
            for number in range(count):
                save(picture(*sides, number), mode, Path(place, f"{number:03d}{suffix}"), **options)
            runs = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, found in runs.items():  # in turns
                    found.append(measure(way, Path(place)))
        best = {way: min(seconds for seconds, _ in found) for way, found in runs.items()}
        most = {way: max(mb for _, mb in found) for way, found in runs.items()}
        for way in WAYS:
            print(f"  {name:<18} {way:<8} {count / best[way]:8.1f} pictures/s  peak {most[way]:7.0f} MB")
        ratio = best["whole"] / best["reduced"]
        print(f"  {name:<18} ratio {ratio:.2f} of the speed, {most['reduced'] / most['whole']:.3f} of the memory")


def worst(pixels: int) -> None:
    print(f"one picture of {pixels / 1e6:.0f} million pixels: peak in MB (whole, reduced) and seconds")
    for name, (suffix, mode, options) in KINDS.items():
        side = int(pixels**0.5)
        if suffix == ".webp":
            side = min(side, 16383)
        with tempfile.TemporaryDirectory() as place:
            save(picture(side, side, 0), mode, Path(place, f"0{suffix}"), **options)
            size = Path(place, f"0{suffix}").stat().st_size / 1e6
            (before, old), (seconds, new) = (measure(way, Path(place)) for way in WAYS)
        print(
            f"  {name:<24} {old:7.0f} {new:7.0f} MB  {before:5.1f} {seconds:5.1f} s  (file {size:.0f} MB)", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs=2, default=(4000, 3000))
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--pixels", type=int, default=178_000_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]))
    elif args.worst:
        worst(args.pixels)
    else:
        usual(tuple(args.sides), args.photos, args.repeats)


if __name__ == "__main__":
    main()
