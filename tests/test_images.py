"""Photos as people have them: of every mode and depth, transparent, turned, animated, damaged, large."""

import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from synthcap_mm import images
from synthcap_mm.errors import UserError
from synthcap_mm.images import MAX_PIXELS, find_images, original_size, read_image, upright_rgb

RAMP = np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)  # 24 wide, 16 high
COLOURS = np.stack([RAMP, RAMP[::-1], 255 - RAMP // 2], axis=-1)


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_mode_comes_out_rgb(mode, tmp_path):
    picture = Image.fromarray(RAMP).convert(mode)
    photo = read_image(saved(picture, tmp_path / ("a.tif" if mode == "CMYK" else "a.png")))
    assert (photo.mode, photo.size) == ("RGB", (24, 16))
    wanted = np.asarray(picture.convert("L"), int) if mode == "1" else RAMP  # of two levels it was dithered
    assert np.abs(np.asarray(photo, int)[:, :, 0] - wanted).max() <= 6


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (220, 30, 30)).convert("CMYK")
    photo = read_image(saved(red, tmp_path / "a.jpg"))
    assert np.abs(np.asarray(photo, int).mean((0, 1)) - (220, 30, 30)).max() < 12


def test_lab_is_as_pillow_converts_it(tmp_path):
    path = saved(Image.fromarray(COLOURS).convert("LAB"), tmp_path / "a.tif")
    assert Image.open(path).mode == "LAB"
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(Image.open(path).convert("RGB")))


def transparent(mode):
    """A picture whose upper half is transparent, over colours that are hidden there."""
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:8] = 0
    rgba = Image.fromarray(np.dstack([COLOURS, alpha]))
    if mode == "P":
        return rgba.convert("RGB").quantize(8), {"transparency": bytes([0] * 8)}  # all eight colours of it
    if mode == "key":
        rgb = COLOURS.copy()
        rgb[:8] = (1, 2, 3)
        return Image.fromarray(rgb), {"transparency": (1, 2, 3)}
    if mode == "I;16":
        grey = RAMP.astype(np.uint16) * 257
        grey[:8] = 7
        return Image.fromarray(grey), {"transparency": 7}
    return rgba.convert(mode), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "key", "I;16"])
def test_what_is_transparent_shows_white(mode, tmp_path):
    image, options = transparent(mode)
    opaque = image.copy()
    if mode == "PA":
        photo = upright_rgb(image)  # no format keeps it
    else:
        photo = read_image(saved(image, tmp_path / "a.png", **options))
        opaque = read_image(saved(image.convert("L") if mode == "LA" else image.convert("RGB"), tmp_path / "b.png"))
    pixels = np.asarray(photo)
    assert (pixels[:8] == 255).all()
    if mode == "P":
        assert (pixels == 255).all()
    elif mode in ("RGBA", "key"):
        assert np.array_equal(pixels[8:], np.asarray(opaque)[8:])
    else:
        assert pixels[8:].std() > 5 and not (pixels[8:] == 255).all()


def test_half_transparent_is_half_white():
    half = Image.new("RGBA", (4, 4), (0, 100, 200, 128))
    assert np.abs(np.asarray(upright_rgb(half), int) - (127, 177, 227)).max() <= 1


def depth(kind):
    """The ramp in a deep grey, and options of its file."""
    if kind.startswith("float"):
        values = RAMP.astype(np.float32) / 255
        if kind == "float with holes":
            values[0] = (np.nan, np.inf, -np.inf) * 8
        return Image.fromarray(values * (255 if kind == "float to 255" else 1))
    bits = int(kind.split()[0])
    return Image.fromarray(
        (RAMP.astype(np.int64) * (2**bits - 1) // 255).astype(np.int32 if "in 32" in kind else np.uint16)
    )


@pytest.mark.parametrize("kind", ["16 bits", "16 in 32", "14 in 16", "12 in 16", "10 in 16", "8 in 16", "8 in 32",
                                  "float", "float to 255", "float with holes"])  # fmt: skip
def test_deep_greys_are_scaled_by_the_range_of_their_values(kind, tmp_path, monkeypatch):
    image, said = depth(kind), []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **options: said.append(message))
    pixels = np.asarray(read_image(saved(image, tmp_path / "a.tif")), int)
    assert np.abs(pixels[1:, :, 1] - RAMP[1:]).max() <= 1
    known = kind in ("16 bits", "16 in 32", "float", "float with holes")
    assert ["a.tif" in message for message in said] == ([] if known else [True])
    if kind == "float with holes":
        assert list(pixels[0, :3, 0]) == [0, 255, 0]


def test_a_16_bit_png_is_as_it_was(tmp_path):
    wide = np.random.default_rng(0).integers(0, 2**16, (16, 24), dtype=np.uint16)
    photo = read_image(saved(Image.fromarray(wide), tmp_path / "a.png"))
    assert np.array_equal(np.asarray(photo)[:, :, 0], wide >> 8)


@pytest.mark.parametrize("tags, low, high", [({340: 100, 341: 1100}, 100, 1100), ({340: 0, 341: 9}, 0, 1023)])
def test_the_range_that_a_tiff_tells_counts_unless_values_lie_outside(tags, low, high, tmp_path):
    values = np.linspace(100, 1000, 24 * 16).reshape(16, 24).astype(np.uint16)
    photo = read_image(saved(Image.fromarray(values), tmp_path / "a.tif", tiffinfo=tags))
    assert np.abs(np.asarray(photo)[:, :, 0] - (values - low) * 255.0 / (high - low)).max() <= 1.5


def test_where_white_is_zero_it_is_inverted(tmp_path):
    file = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(file, "TIFF")
    content = bytearray(file.getvalue())
    entry = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # PhotometricInterpretation
    assert content[entry + 8] == 1
    content[entry + 8] = 0
    assert np.abs(np.asarray(read_image(bytes(content), "a"), int)[:, :, 0] - (255 - RAMP)).max() <= 1


@pytest.mark.parametrize(
    "values", [np.full((4, 4), np.nan), np.full((4, 4), -5.0), np.full((4, 4), 3e38), np.zeros((4, 4))]
)
def test_floats_without_a_range_do_no_harm(values):
    assert upright_rgb(Image.fromarray(values.astype(np.float32))).size == (4, 4)


def test_a_turned_photo_is_put_upright(tmp_path):
    picture = Image.fromarray(RAMP).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a viewer turns it by 90 degrees
    photo = read_image(saved(picture, tmp_path / "a.jpg", exif=exif, quality=95))
    assert photo.size == (16, 24)
    assert np.abs(np.asarray(photo, int) - np.asarray(picture.rotate(-90, expand=True), int)).max() < 12


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_of_an_animation_it_is_the_first_frame(name, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(read_image(path), int) - (250, 0, 0)).max() < 8


def test_what_does_not_decode_is_named_with_the_reason(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(jpeg, "JPEG")
    (tmp_path / "cut short.jpg").write_bytes(jpeg.getvalue()[:900])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "ünï.jpg").write_text("a text")
    for name in ("cut short.jpg", "empty.jpg", "ünï.jpg"):
        with pytest.raises(ValueError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="an upload"):
        read_image(b"", "an upload")
    for unreadable in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(OSError, match=str(unreadable)):
            read_image(unreadable)


def png_of_a_header(side):
    """A PNG file that has no pixels, whatever its header says."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 14_000])  # beyond Pillow's limit, and only beyond ours
def test_enormous_pictures_are_refused_before_they_are_decoded(side, monkeypatch):
    monkeypatch.setattr(images, "upright_rgb", lambda *a: pytest.fail("it was decoded"))
    limit = MAX_PIXELS if side == 20_000 else 50_000_000
    with pytest.raises(ValueError, match=rf"huge\.png.* {limit / 1e6:.0f} million"):
        read_image(png_of_a_header(side), "huge.png", max_pixels=limit)


def test_a_header_that_lies_is_an_error():
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(png_of_a_header(500), "a.png")


def test_a_line_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png.*3000 x 1"):
        read_image(saved(Image.new("L", (3000, 1)), tmp_path / "a.png"))


@pytest.mark.parametrize("other", ["EPS", "ICO", "TGA", "PCX", "PDF"])
def test_other_formats_are_refused_whatever_the_name(other, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, other)
    with pytest.raises(ValueError, match=r"a\.jpg.*JPEG"):
        read_image(path)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.mpo", "a.png", "a.gif", "a.webp", "a.bmp", "a.tif", "a.ppm", "a.jp2", "a.avif"]
)
def test_formats_that_are_read(name, tmp_path):
    assert read_image(saved(Image.fromarray(COLOURS), tmp_path / name)).size == (24, 16)


def photo_of(width, height):
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size, wanted", [
    ((160, 80), (160, 80)), ((100, 90), (89, 80)), ((170, 220), (80, 104)), ((640, 78), (573, 70)),
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_large_pictures_are_reduced(size, wanted, name, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SHORTER_SIDE", 80)
    monkeypatch.setattr(images, "MAX_AREA", 40_000)
    picture = photo_of(*size)
    path = saved(picture, tmp_path / name)
    photo = read_image(path)
    assert photo.size == wanted and original_size(photo) == size
    whole = np.asarray(Image.open(path).resize(wanted, Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(photo, float) - whole).mean() < (0.01 if size == wanted else 2)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16", "F", "1"])
def test_every_mode_is_reduced(mode, monkeypatch):
    monkeypatch.setattr(images, "SHORTER_SIDE", 100)
    monkeypatch.setattr(images, "_STRIP", 10_000)
    rgb = photo_of(250, 420)
    if mode in ("I;16", "F"):
        grey = np.asarray(rgb.convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey.astype(np.float32) / 255)
        rgb = rgb.convert("L").convert("RGB")
    else:
        image = rgb.convert(mode)
        rgb = upright_rgb(image.convert("RGB"))
    wanted = np.asarray(rgb.resize((100, 168), Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(upright_rgb(image), float) - wanted).mean() < 1


def test_colours_under_transparent_parts_do_not_bleed():
    rgba = np.zeros((1600, 1600, 4), np.uint8)
    rgba[::2, :, 3] = 255  # black lines on a hidden black ground
    assert np.abs(np.asarray(upright_rgb(Image.fromarray(rgba)), int) - 127).mean() < 3


def test_a_reduced_turned_photo_knows_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SHORTER_SIDE", 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo_of(200, 180)
    photo = read_image(saved(picture, tmp_path / "a.jpg", exif=exif))
    assert photo.size == (80, 89) and original_size(photo) == (180, 200)
    again = upright_rgb(photo)  # as the page gives it to the captioner
    assert np.array_equal(np.asarray(again), np.asarray(photo)) and original_size(again) == (180, 200)
    upright = picture.rotate(-90, expand=True).resize(photo.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(photo, int) - np.asarray(upright, int)).mean() < 3
    for name in ("a.png", "a.tif", "a.webp"):
        assert original_size(read_image(saved(picture, tmp_path / name, exif=exif))) == (180, 200)


def test_one_large_picture_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "LARGE", 100)
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
    at_once, most, convert = [0], [0], images._reduced_rgb

    def watched(*args):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.02)
        at_once[0] -= 1
        return convert(*args)

    monkeypatch.setattr(images, "_reduced_rgb", watched)
    threads = [threading.Thread(target=read_image, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_whatever_is_wrong_with_a_file_is_a_value_error_that_names_it():
    rng, found = np.random.default_rng(0), 0
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"):
        whole = io.BytesIO()
        Image.fromarray(COLOURS).save(whole, kind)
        for _ in range(40):
            damaged = np.frombuffer(whole.getvalue(), np.uint8).copy()[: rng.integers(1, len(whole.getvalue()) + 1)]
            places = rng.integers(0, min(len(damaged), 120), 3)
            damaged[places] = rng.integers(0, 256, 3)
            try:
                read_image(damaged.tobytes(), "upload 7")
            except ValueError as error:
                assert "upload 7" in str(error)
                found += 1
    assert found > 100


MEMORY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy
from PIL import Image
from synthcap_mm.images import read_image
Image.init()
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3
before = peak()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(read_image, sys.argv[1:]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_four_threads_hold_one_large_picture(tmp_path):
    path = saved(Image.new("RGB", (6000, 6000)), tmp_path / "a.png", compress_level=1)
    done = subprocess.run([sys.executable, "-c", MEMORY, *[str(path)] * 4], capture_output=True, text=True, check=True)
    assert 120 < float(done.stdout) < 260  # MB; decoded it has 144


def test_warnings_of_pillow_do_not_spill(tmp_path):
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    code = (
        "from PIL import Image; from synthcap_mm.images import read_image;"
        f"Image.MAX_IMAGE_PIXELS = 200; read_image({str(path)!r})"  # it is half a bomb, with a damaged EXIF
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == ""


@pytest.fixture()
def said(monkeypatch):
    found = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda message, **options: found.append(message))
    return found


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_find_photos(tmp_path, said):
    fill(tmp_path, "b.JPG", "a b.png", "ordner/ü.webp", ".hidden/c.jpg")
    assert list(find_images(tmp_path)) == ["a b.png", "b.JPG", "ordner/ü.webp"] and said == []
    assert list(find_images(tmp_path, extensions=[".PNG"])) == ["a b.png"]
    with pytest.raises(UserError, match=r"\.bmp.*1 \.png, 1 \.jpg"):
        find_images(tmp_path / ".hidden" / "..", extensions=(".bmp",))
    with pytest.raises(UserError, match="nowhere"):
        find_images(tmp_path / "nowhere")


def test_every_extension_of_a_format_that_is_read_is_found(tmp_path):
    names = {"a.jpg", "a.jpe", "a.jfif", "a.mpo", "a.png", "a.gif", "a.webp", "a.bmp", "a.tif", "a.ppm", "a.pgm",
             "a.jp2", "a.j2k", "a.avif"}  # fmt: skip
    fill(tmp_path, *names, "a.eps", "a.pdf", "a.ico", "a.svg")
    assert set(find_images(tmp_path)) == names


def test_files_that_are_left_out_are_counted(tmp_path, said, monkeypatch):
    without_heif(monkeypatch)
    fill(tmp_path, "a.png", "1.HEIC", "b/2.heic", "notes.txt", "c/README", "x.\x1b[2J", "y." + "y" * 50)
    (tmp_path / "gone.png").symlink_to("nowhere")
    assert list(find_images(tmp_path)) == ["a.png"]
    assert len(said) == 1 and "\x1b" not in said[0] and "yyy" not in said[0]
    for part in ("2 .heic (pip install pillow-heif)", "1 .txt", "3 other", "1 .png ("):
        assert part in said[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"2 \.heic \(pip install pillow-heif\)"):
        find_images(tmp_path)


def test_names_that_are_not_utf8_are_keys_of_text(tmp_path):
    fill(tmp_path, "ü.png", os.fsdecode(b"b\xffd/caf\xe9.png"))
    found = find_images(tmp_path)
    assert list(found) == [r"b\xffd/caf\xe9.png", "ü.png"]
    path = found[r"b\xffd/caf\xe9.png"]
    assert os.fsencode(path).endswith(b"/b\xffd/caf\xe9.png")
    with pytest.raises(ValueError, match=r"/b\\xffd/caf\\xe9\.png "):
        read_image(path)


# ---- HEIC
def forget_formats():
    images._known_formats.cache_clear()
    images.image_extensions.cache_clear()


@pytest.fixture(autouse=True)
def formats():
    yield
    forget_formats()


def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for extension in images._HEIF_EXTENSIONS:
        monkeypatch.delitem(Image.EXTENSION, extension, raising=False)
    forget_formats()


def test_without_pillow_heif_an_heic_file_is_an_error_with_the_command(tmp_path, monkeypatch):
    without_heif(monkeypatch)
    for name in ("1.HEIC", "2.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(ValueError, match=rf"{name}.*pip install pillow-heif"):
            read_image(tmp_path / name)


@pytest.fixture()
def heif():
    return pytest.importorskip("pillow_heif", reason="pillow-heif ABSENT: pip install 'synthcap_mm[heif]'")


def heic(picture, path, **options):
    images._known_formats()
    picture.save(path, "HEIF", quality=95, **options)
    return path


def test_heic_photos_are_found_read_and_put_upright(heif, tmp_path, said):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo_of(200, 120)
    heic(picture, tmp_path / "a.HEIC", exif=exif.tobytes())
    assert list(find_images(tmp_path)) == ["a.HEIC"] and said == []
    upright = picture.rotate(-90, expand=True)
    photo = read_image(tmp_path / "a.HEIC")
    assert photo.size == (120, 200)
    assert np.abs(np.asarray(photo, int) - np.asarray(upright, int)).mean() < 4


def test_of_an_heic_file_it_is_the_picture_not_the_thumbnail(heif, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SHORTER_SIDE", 40)
    path = heic(photo_of(400, 400), tmp_path / "a.heic", thumbnails=[64])
    photo = read_image(path)
    whole = photo_of(400, 400).resize((40, 40), Image.Resampling.BICUBIC)
    assert photo.size == (40, 40) and original_size(photo) == (400, 400)
    assert np.abs(np.asarray(photo, int) - np.asarray(whole, int)).mean() < 3
    with Image.open(path) as opened:
        assert not opened.info["thumbnails"]


def test_heic_files_keep_the_limit_of_pixels(heif, tmp_path, monkeypatch):
    content = heic(photo_of(400, 300), tmp_path / "a.heic").read_bytes()
    with pytest.raises(ValueError, match=r"a\.heic.* 0 million"):
        read_image(tmp_path / "a.heic", max_pixels=400 * 300 - 1)
    assert read_image(tmp_path / "a.heic", max_pixels=400 * 300).size == (400, 300)
    (stated,) = re.finditer(b"ispe....(.{8})", content, re.DOTALL)
    for width, height in ((20, 15), (30_000, 30_000)):  # a header that lies
        forged = content[: stated.start(1)] + struct.pack(">II", width, height) + content[stated.end(1) :]
        monkeypatch.setattr(images, "_reduced_rgb", lambda *a: pytest.fail("it was decoded"))
        with pytest.raises(ValueError, match="forged"):
            read_image(forged, "forged")


def test_damaged_heic_files_are_value_errors(heif, tmp_path):
    content = heic(photo_of(100, 80), tmp_path / "a.heic").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()[: rng.integers(1, len(content) + 1)]
        places = rng.integers(0, min(len(damaged), 400), 3)
        damaged[places] = rng.integers(0, 256, 3)
        with contextlib.suppress(ValueError):
            read_image(damaged.tobytes(), "upload 7")
