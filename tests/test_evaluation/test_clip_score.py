import numpy as np
import pytest
import torch

from synthcap_mm.evaluation.clip_score import clip_score, ref_clip_score

IMAGES = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
TEXTS = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])


def test_by_hand_lengths_do_not_matter_and_opposites_are_zero():
    assert clip_score(IMAGES, TEXTS) == pytest.approx([2.5 * 0.6, 2.5, 0.0, 0.0])
    assert clip_score(IMAGES, TEXTS, w=1.0) == pytest.approx([0.6, 1.0, 0.0, 0.0])


def test_references_by_hand():
    references = [[[1.0, 0.0], [0.0, 5.0]], [[1.0, 0.0]], [[0.0, -1.0]], [[1.0, 0.0]]]
    # the nearer reference of the first has the cosine 0.8: 2 · 1.5 · 0.8 / 2.3
    assert ref_clip_score(IMAGES, TEXTS, references) == pytest.approx([2.4 / 2.3, 5 / 3.5, 0.0, 0.0])
    # a reference on the other side counts as no likeness, not as a negative one
    assert ref_clip_score(IMAGES[:1], TEXTS[:1], [[[-1.0, 0.0]]]) == 0.0


def test_tensors_on_any_dtype_give_the_same():
    feats = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    texts = feats.detach().flip(0)
    wanted = 2.5 * torch.cosine_similarity(feats, texts).clamp(min=0)
    assert clip_score(feats, texts) == pytest.approx(wanted.detach().numpy(), abs=1e-6)
    assert clip_score(feats.half(), texts.half()) == pytest.approx(wanted.detach().numpy(), abs=3e-3)
    assert clip_score(feats.detach().numpy(), texts.numpy()) == pytest.approx(wanted.detach().numpy(), abs=1e-6)
    assert ref_clip_score(feats, texts, texts[:, None]) == pytest.approx((2 * wanted / (wanted + 1)).detach().numpy())


def test_no_images():
    empty = np.empty((0, 4))
    assert len(clip_score(empty, empty)) == len(ref_clip_score(empty, empty, [])) == 0


@pytest.mark.parametrize(
    ("images", "texts", "said"),
    [
        (IMAGES, TEXTS[:3], "4 image.* 3 text"),
        (IMAGES, np.ones((4, 3)), r"text_feats.*\(4, 3\)"),
        (IMAGES[0], TEXTS, r"image_feats.*\(2,\)"),
        (IMAGES, TEXTS * [1, np.nan], "text_feats"),
    ],
)
def test_bad_features(images, texts, said):
    with pytest.raises(ValueError, match=said):
        clip_score(images, texts)


@pytest.mark.parametrize("references", [[[[1.0, 0.0]]] * 3, [[[1.0, 0.0]]] * 3 + [[]], [[[1.0, 0.0, 0.0]]] * 4])
def test_bad_references(references):
    with pytest.raises(ValueError):
        ref_clip_score(IMAGES, TEXTS, references)
