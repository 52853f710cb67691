"""Everything that people hand in to be captioned."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.images import original_size
from synthcap_mm.inference import inputs
from synthcap_mm.inference.inputs import iter_inputs, load_input
from synthcap_mm.structures import CaptionSample

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.fixture()
def photos(tmp_path):
    names = ["a b.png", "ü/ñandú.png", "ü/z.PNG"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


def keys(inputs):
    return [item.key for item in iter_inputs(inputs)]


def loaded(source, **options):
    (item,) = iter_inputs(source)
    return load_input(item, **options)


def test_files_folders_and_patterns(photos):
    every = [str(photos / name) for name in ("a b.png", "ü/z.PNG", "ü/ñandú.png")]
    assert keys(str(photos / "a b.png")) == every[:1]
    assert keys(photos) == every  # a Path; no text files; names with blanks and other letters
    assert keys(str(photos / "ü" / "*")) == every[1:]
    assert keys(str(photos / "**" / "*.png")) == [every[0], every[2]]
    assert keys([photos / "a b.png", [photos / "ü"]]) == every
    assert keys([every[0], every[0]]) == [every[0]] * 2  # the same photo twice is captioned twice
    assert np.array_equal(np.asarray(loaded(every[2])), PIXELS)


def test_nothing_to_caption_is_said(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        keys(tmp_path / "empty")
    with pytest.raises(UserError, match=r"\*\.tif"):
        keys(str(photos / "*.tif"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        loaded(str(tmp_path / "nowhere.jpg"))
    with pytest.raises(TypeError, match="int"):
        keys([3])
    with pytest.raises(TypeError, match="dict"):
        keys({"image": "a.jpg"})


def test_patterns_enter_each_folder_once(photos, tmp_path, monkeypatch):
    (photos / "loop").symlink_to(".")
    (photos / "again").symlink_to("ü")
    (photos / ".thumbs").mkdir()
    (photos / "a b.png").rename(photos / ".thumbs" / "t.png")
    two = [str(photos / "ü" / name) for name in ("z.PNG", "ñandú.png")]
    assert keys(str(photos / "**" / "*.[pP][nN][gG]")) == two
    assert keys(str(photos / "**")) == keys(str(photos / "**" / "**")) == sorted([*two, str(photos / "notes.txt")])
    assert keys(str(photos / "**" / "ü" / "**" / "z.*")) == two[:1]
    assert keys(str(photos / "**" / ".thumbs" / "*")) == [str(photos / ".thumbs" / "t.png")]
    assert keys(str(photos / "loo?" / "loop" / "*" / "z*")) == [str(photos / "loop/loop" / name / "z.PNG")
                                                              for name in ("again", "ü")]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert keys("**/z*") == ["photos/ü/z.PNG"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a[1].png")
    assert keys(str(tmp_path / "a[1].png")) == [str(tmp_path / "a[1].png")]


def test_arrays_are_bgr_unless_said_otherwise_and_tensors_rgb():
    assert np.array_equal(np.asarray(loaded(PIXELS)), PIXELS[:, :, ::-1])
    assert np.array_equal(np.asarray(loaded(PIXELS, channel_order="rgb")), PIXELS)
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    alpha[:6, :, 3] = 0
    for order, colours in (("bgr", PIXELS[:, :, ::-1]), ("rgb", PIXELS)):
        pixels = np.asarray(loaded(alpha, channel_order=order))
        assert np.array_equal(pixels[6:], colours[6:]) and (pixels[:6] == 255).all()
    grey = PIXELS[:, :, 0]
    for one in (grey, grey[:, :, None]):
        assert np.array_equal(np.asarray(loaded(one)), np.dstack([grey] * 3))
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    assert np.array_equal(np.asarray(loaded(tensor)), PIXELS)
    assert np.array_equal(np.asarray(loaded(tensor.float() / 255)), PIXELS)
    assert keys([np.stack([PIXELS] * 3), tensor[None]]) == ["input 0", "input 1", "input 2", "input 3"]


def test_pil_images_of_any_mode_and_bytes(photos):
    content = (photos / "a b.png").read_bytes()
    assert np.array_equal(np.asarray(loaded(content)), PIXELS)
    assert np.array_equal(np.asarray(loaded(Image.open(photos / "a b.png"))), PIXELS)
    assert loaded(Image.new("CMYK", (5, 4))).mode == "RGB"
    half = Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 128, np.uint8)]))
    assert np.abs(np.asarray(loaded(half), int) - (255 + PIXELS.astype(int)) / 2).max() <= 2
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 6
    assert loaded(turned).size == (12, 20)


def test_large_arrays_and_images_are_reduced_and_know_their_size():
    large = np.zeros((900, 1000, 3), np.uint8)
    for one in (large, torch.from_numpy(large).permute(2, 0, 1), Image.fromarray(large)):
        assert loaded(one).size == (889, 800) and original_size(loaded(one)) == (1000, 900)
    with pytest.raises(ValueError, match=r"input 0.*1000 x 1"):
        loaded(large[:1])


def test_a_pil_image_that_does_not_decode_is_named(photos):
    (photos / "cut.png").write_bytes((photos / "a b.png").read_bytes()[:90])
    with pytest.raises(ValueError, match="input 0"):
        loaded(Image.open(photos / "cut.png"))


def test_features_and_samples():
    feature = RNG.standard_normal(8)
    found = loaded(feature)
    assert found.dtype == torch.float32 and found.norm() == pytest.approx(1)
    assert keys(torch.randn(3, 8)) == ["input 0", "input 1", "input 2"]
    sample = CaptionSample(3, "mine", "real", feat=torch.randn(8))
    assert loaded(sample) is sample and keys([sample]) == ["mine"]
    for wrong in (np.zeros(8), np.full(8, np.nan)):
        with pytest.raises(ValueError, match="input 0"):
            loaded(wrong)
    with pytest.raises(ValueError, match="mine"):
        loaded(CaptionSample(3, "mine"))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.zeros((4, 4, 3), np.uint16), "array of shape .* and dtype uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"tensor of shape \(4, 4, 3\).*\(3, H, W\)"),
        (torch.full((3, 4, 4), 2.0), r"floats outside \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"floats outside \[0, 1\]"),
    ],
)
def test_what_is_no_picture_is_named(wrong, words):
    with pytest.raises(ValueError, match=f"^input 0 .*{words}"):
        loaded(wrong)


def test_an_iterator_is_read_as_it_is_needed():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield PIXELS

    found = iter_inputs(endless())
    assert next(found).key == "input 0" and next(found).key == "input 1"
    assert len(taken) == 2


def test_an_address_is_fetched(photos, monkeypatch):
    content = (photos / "a b.png").read_bytes()
    asked = []
    monkeypatch.setattr(inputs, "fetch", lambda url, private: (asked.append((url, private)), content)[1])
    assert keys("HTTP://here/a b.png") == ["HTTP://here/a b.png"]
    assert np.array_equal(np.asarray(loaded("https://here/a.png")), PIXELS)
    assert np.array_equal(np.asarray(loaded("https://here/a.png", allow_private_redirects=True)), PIXELS)
    assert asked == [("https://here/a.png", False), ("https://here/a.png", True)]


def test_a_folder_that_cannot_be_listed_is_an_input_with_an_error(photos, monkeypatch):
    def walk(root, onerror, **kwargs):
        yield os.fspath(root), [], ["a b.png"]
        onerror(PermissionError(13, "Permission denied", f"{root}/closed"))

    monkeypatch.setattr(os, "walk", walk)  # root may list every folder
    good, bad = iter_inputs(photos)
    assert (good.key, bad.key) == (f"{photos}/a b.png", f"{photos}/closed")
    with pytest.raises(PermissionError, match="closed"):
        load_input(bad)


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "a\0.jpg"])
def test_an_impossible_name_is_an_error_of_its_own(name):
    (item,) = iter_inputs(name)
    with pytest.raises((OSError, ValueError)):
        load_input(item)
