"""Features and tags of pictures."""

import numpy as np
import torch
from PIL import Image

from synthcap_mm.images import upright_rgb
from synthcap_mm.structures import Tag
from synthcap_mm.synthesis.image_reader import ImageReader


class Corner:
    """Sees something in the lower right quarter, and something without a place."""

    def detect(self, images):
        return [
            [Tag("dog", 0.9, (i.width / 2, i.height / 2, i.width, i.height), 0.25), Tag("sky", 0.5)] for i in images
        ]


def test_boxes_are_in_pixels_of_the_original():
    large = upright_rgb(Image.fromarray(np.zeros((1600, 2000), np.uint8)))
    small = upright_rgb(Image.fromarray(np.zeros((40, 60), np.uint8)))
    assert large.size == (1000, 800)
    found = ImageReader(torch.nn.Identity(), Corner()).tags([large, None, small])
    assert [[tag.box for tag in tags] for tags in found] == [
        [(1000, 800, 2000, 1600), None], [], [(30, 20, 60, 40), None],
    ]  # fmt: skip
    assert [tag.area for tag in found[0]] == [0.25, 1.0]
