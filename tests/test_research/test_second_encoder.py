"""The second real encoder's own parts; its towers' weights come from packages that tests do not install."""

import torch
from PIL import Image

from research.real.second_encoder import LONGEST, OUTSIDE, SIDE, TextTower, recall, whole_picture

WORDS = ["<pad>", "<unk>", "a", "dog", "cat"]


def test_recall_counts_any_of_a_photos_captions_and_each_caption():
    # Photo 0's best caption is its own fifth one; photo 1's own come after all five of photo 0's.
    scores = torch.tensor([[1, 1, 1, 1, 9, 5, 1, 1, 1, 1], [3, 3, 3, 3, 3, 2, 2, 2, 2, 2.0]])
    # Captions 0 to 3 find photo 1 first, caption 4 its own; caption 5 finds photo 0 first, 6 to 9 their own.
    assert recall(scores, at=(1, 2, 6)) == [50.0, 50.0, 100.0, 50.0, 100.0, 100.0]


def test_a_sentence_alone_and_beside_a_longer_one_has_the_same_features():
    tower = TextTower(WORDS, own=4).eval()
    tower.glove.normal_()
    alone, beside = tower(tower.ids(["A dog"])), tower(tower.ids(["A dog", "a cat, a dog and a bird"]))
    torch.testing.assert_close(alone[0], beside[0])
    assert tower.ids(["a dog.", "bird 3"]).tolist() == [[2, 3], [1, 1]]


def test_a_picture_lies_whole_in_the_corner_of_its_square():
    square = whole_picture(Image.new("RGB", (60, 40), "white"))
    inside = square[0] > OUTSIDE
    assert square.shape == (3, LONGEST, LONGEST) and inside.sum() == SIDE * 390 and inside[:SIDE, :390].all()
