"""Photos as people have them: of every mode, turned, animated, damaged, too large."""

import io

import numpy as np
import pytest
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.images import MAX_PIXELS, find_images, read_image

RAMP = np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)  # 24 wide, 16 high


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


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_cut(name, tmp_path):
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    photo = read_image(saved(wide, tmp_path / name))
    assert np.array_equal(np.asarray(photo)[:, :, 0], RAMP)
    # 32-bit integers that hold 16-bit ones, and such that hold 8-bit ones
    for factor in (257, 1):
        whole = saved(Image.fromarray(RAMP.astype(np.int32) * factor), tmp_path / "b.tif")
        assert np.array_equal(np.asarray(read_image(whole))[:, :, 0], RAMP)


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


@pytest.mark.parametrize("side", [20_000, 14_000])  # beyond Pillow's limit, and only beyond ours (below: given)
def test_enormous_pictures_are_refused_before_they_are_decoded(side, tmp_path):
    path = saved(Image.new("1", (side, side)), tmp_path / "huge.png")
    limit = MAX_PIXELS if side == 20_000 else 50_000_000
    with pytest.raises(ValueError, match=rf"huge\.png.* {limit / 1e6:.0f} million"):
        read_image(path, max_pixels=limit)


def test_find_photos(tmp_path):
    for name in ("b.JPG", "a b.png", "ordner/ü.webp", ".hidden/c.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(find_images(tmp_path)) == ["a b.png", "b.JPG", "ordner/ü.webp"]
    with pytest.raises(UserError, match=r"\.bmp"):
        find_images(tmp_path / ".hidden" / "..", extensions=(".bmp",))
    with pytest.raises(UserError, match="nowhere"):
        find_images(tmp_path / "nowhere")
