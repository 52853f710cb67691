"""All reasons of a caption in one picture."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from synthcap_mm import images
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import caption_visualizer
from synthcap_mm.registry import VISUALIZERS
from synthcap_mm.structures import CaptionSample, Tag

PHOTO = np.full((40, 80, 3), 200, np.uint8)


def result(**changes):
    sample = CaptionSample(
        0, "a.jpg", "real", references=["a reference"],
        tags=[Tag("dog", 0.9, (10, 10, 30, 30), 0.1), Tag("sky", 0.8), Tag("cat", 0.2, (50, 5, 70, 30), 0.1)],
        pred_caption="a dog", pred_captions=["a dog", "a cat"], pred_logprobs=[-1.5, -2.5], pred_scores=[-0.5, -0.7],
        pred_tags=["dog", "sky"],
    )  # fmt: skip
    fields = {"key": "a.jpg", "sample": sample, "memory": [("a brown dog", 0.6), ("a cat", 0.1)], "clip_score": 0.71}
    return SimpleNamespace(**{**fields, "error": None, **changes})


@pytest.fixture()
def visualizer(request):
    return VISUALIZERS.build({"type": "CaptionVisualizer", "name": request.node.name})


@pytest.fixture()
def written(monkeypatch):
    """Every text that is drawn."""
    texts = []
    text = ImageDraw.ImageDraw.text

    def remember(self, xy, string, *args, **options):
        texts.append(string)
        return text(self, xy, string, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", remember)
    return texts


def test_everything_is_in_the_picture(visualizer, written, tmp_path):
    drawn = visualizer.add_datasample("a", PHOTO, result(), out_file=tmp_path / "a.png")
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), drawn)
    told = " | ".join(written)
    for piece in ("a dog", "CLIPScore 0.710", "log p -1.50", "ranked by -0.700", "dog, sky", "in all 70%",
                  "0.600 a brown dog", "0.100 a cat", "dog 0.90"):  # fmt: skip
        assert piece in told, piece
    assert "cat 0.20" not in told and "sky 0.80" not in told  # not in the prompt; without a place
    assert "reference" not in told
    visualizer.add_datasample("a", PHOTO, result(), draw_gt=True, out_file=tmp_path / "a.png")
    assert "ref: a reference" in written


def test_boxes_are_where_they_belong(visualizer):
    plain = visualizer.add_datasample("a", PHOTO, result(), draw_pred=False)
    drawn = visualizer.add_datasample("a", PHOTO, result())
    scale, gap = 480 / 80, caption_visualizer._GAP
    photo = drawn[gap : gap + 240, gap : gap + 480]
    changed = (photo != plain[gap : gap + 240, gap : gap + 480]).any(2)
    rows, columns = changed[:, :].any(1).nonzero()[0], changed.any(0).nonzero()[0]
    assert abs(rows[-1] - 30 * scale) <= 2 and abs(columns[0] - 10 * scale) <= 2
    # inside of the box nothing is painted over
    assert not changed[int(14 * scale) : int(26 * scale), int(14 * scale) : int(26 * scale)].any()


def test_weights_are_bars_of_their_length(visualizer):
    drawn = visualizer.add_datasample("a", PHOTO, result())
    blue = (drawn == np.array([0xC9, 0xDC, 0xF3])).all(2)
    lengths = sorted({int(row.nonzero()[0][-1] - row.nonzero()[0][0]) for row in blue if row.any()})
    assert lengths[0] / lengths[-1] == pytest.approx(0.1 / 0.6, abs=0.02)


def test_a_small_box_a_box_outside_and_odd_photos_do_no_harm(visualizer):
    sample = result().sample
    sample.tags = [Tag("dog", 0.9, (-5, -5, 500, 1), 1.0), Tag("dog", 0.9, (79, 39, 79, 39), 0.0)]
    sample.pred_caption = sample.pred_captions[0] = ""
    for shape in ((1, 300, 3), (300, 1, 3), (1, 1, 3)):
        photo = np.zeros(shape, np.uint8)
        assert visualizer.add_datasample("a", photo, result(sample=sample, memory=[("", 0.0)])).shape[0] > 1


def test_what_cannot_be_drawn_is_said(visualizer, tmp_path):
    with pytest.raises(UserError, match=r"a\.jpg .*: it is damaged"):
        visualizer.add_datasample("a", PHOTO, result(sample=None, error="it is damaged"))
    with pytest.raises(UserError, match=r"\.xyz"):
        visualizer.add_datasample("a", PHOTO, result(), out_file=tmp_path / "a.xyz")


def test_boxes_fit_a_photo_that_was_reduced(monkeypatch):
    monkeypatch.setattr(images, "SHORTER_SIDE", 40)
    photo = Image.fromarray(np.full((160, 320, 3), 200, np.uint8))
    reduced = images.upright_rgb(photo)
    assert reduced.size == (80, 40)
    tags = [Tag("dog", 0.9, (40, 40, 120, 120), 0.1)]
    drawn, wanted = (np.asarray(caption_visualizer.draw_tags(one, tags)) for one in (reduced, photo))
    assert np.array_equal(drawn, wanted)


def test_tags_alone():
    drawn = caption_visualizer.draw_tags(Image.fromarray(PHOTO), result().sample.tags)
    assert drawn.size == (480, 240) and len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 5
