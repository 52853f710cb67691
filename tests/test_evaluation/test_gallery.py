import numpy as np
import pytest
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.gallery import save_gallery
from synthcap_mm.structures import CaptionSample, Tag

COLOURS = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 200), "grey": (90, 90, 90), "pink": (250, 100, 200)}


def sample(key, **fields):
    fields = {"pred_caption": f"a {key} picture", "references": [f"this is {key}", "a plain picture"]} | fields
    return CaptionSample(sample_id=0, key=key, tags=[Tag("dog", 0.9)], **fields)


def load(key):
    return Image.new("RGB", (64, 48), COLOURS[key])


def has(picture, colour):
    return (np.abs(picture.astype(int) - colour).max(-1) <= 2).sum()


def test_every_image_is_there(tmp_path):
    path = save_gallery([sample(key) for key in COLOURS], load, tmp_path / "sub" / "gallery.png", columns=2, title="T")
    picture = np.asarray(Image.open(path))
    areas = {key: has(picture, colour) for key, colour in COLOURS.items()}
    assert min(areas.values()) > 50_000, areas  # small ones are enlarged
    assert [p.name for p in path.parent.iterdir()] == ["gallery.png"]


def test_longer_texts_make_a_taller_picture_and_another_caption_another(tmp_path):
    def pixels(name, **fields):
        return np.asarray(Image.open(save_gallery([sample("red", **fields)], load, tmp_path / name)))

    short, other = pixels("1.png"), pixels("2.png", pred_caption="a blue picture")
    assert short.shape == other.shape and (short != other).any()
    assert pixels("3.png", pred_caption="many words " * 30).shape[0] > short.shape[0]
    assert pixels("4.png", references=[]).shape[0] < short.shape[0]
    assert (pixels("5.png", pred_tags=["cat"]) != short).any()


def test_nothing_written_and_no_references_do_not_fail(tmp_path):
    save_gallery([sample("red", pred_caption=None, references=None)], load, tmp_path / "g.jpg")
    assert Image.open(tmp_path / "g.jpg").format == "JPEG"


def test_a_damaged_image_leaves_no_half_file(tmp_path):
    def broken(key):
        raise ValueError(f"the photo {key} does not decode")

    with pytest.raises(ValueError, match="the photo red does not decode"):
        save_gallery([sample("red")], broken, tmp_path / "g.png")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_image_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.docx"):
        save_gallery([sample("red")], load, tmp_path / "g.docx")
