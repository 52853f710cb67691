"""Small components of the real kinds, registered as a user would: named in a config's custom_imports."""

import hashlib

import numpy as np
import torch
from PIL import Image

from synthcap_mm.datasets.captions import Caption
from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.options import Name, Seed, Size
from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.structures import Tag

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "white": (240, 240, 240)}
THINGS = ("dog", "cat", "car", "boat", "tree")
PLACES = ("beach", "street", "field")


def sentences(num, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        colour, thing, place = (rng.choice(list(x)) for x in (COLOURS, THINGS, PLACES))
        made.append(Caption(f"c{i}", f"a {colour} {thing} on the {place}", f"g{i // 2}"))
    return made


@DATASETS.register_module()
class TinyCaptions:
    def __init__(self, num=40, seed=0):
        self.num, self.seed = num, seed

    def read(self):
        return sentences(self.num, self.seed)


@DATASETS.register_module()
class ListedCaptions:
    """Captions as they are listed: (id, text, group)."""

    def __init__(self, captions):
        self.captions = captions

    def read(self):
        return [Caption(*c) for c in self.captions]


@MODELS.register_module()
class TinyEncoder(BaseBackbone):
    """Pixels and words through fixed random matrices."""

    def __init__(self, dim: Size = 32, seed: Seed = 0, name: Name = "tiny"):
        super().__init__()
        self.name, self.embed_dim, self.logit_scale = name, dim, 100.0
        self.batches = []
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("words", torch.randn(512, dim, generator=generator))
        self.register_buffer("pixels", torch.randn(3 * 8 * 8, dim, generator=generator))

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.convert("RGB").resize((8, 8)), np.float32) / 255 - 0.5).permute(
            2, 0, 1
        )

    def encode_image(self, pixels):
        self.batches.append(len(pixels))
        return self.unit(torch.stack([p.flatten() @ self.pixels for p in pixels]))

    def encode_grid(self, images):
        """Four places of 48 numbers."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        return pixels.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(images), 4, 48)

    def encode_text(self, texts):
        rows = [
            [int.from_bytes(hashlib.blake2b(w.encode(), digest_size=2).digest(), "little") % 512 for w in t.split()]
            for t in texts
        ]
        return self.unit(torch.stack([self.words[r].sum(0) for r in rows]))

    def is_too_long(self, texts):
        return [len(t.split()) > 12 for t in texts]


@MODELS.register_module()
class TinyPainter:
    """A square in the caption's colour, with noise by the seed; 'white' comes out blank."""

    drawn = 0

    def __init__(self, size=16):
        self.size = size

    def generate(self, captions, seeds):
        images = []
        for caption, seed in zip(captions, seeds):
            type(self).drawn += 1
            colour = next((COLOURS[w] for w in caption.split() if w in COLOURS), (0, 0, 0))
            if "blank" in caption:
                images.append(Image.new("RGB", (self.size, self.size), (0, 0, 0)))
                continue
            noise = np.random.default_rng(seed).integers(0, 60, (self.size, self.size, 3))
            picture = noise + np.array(colour) * 0.7
            thing = next((i for i, t in enumerate(THINGS) if t in caption), 0)
            picture[2 * thing : 2 * thing + 2] = 255
            images.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
        return images


@MODELS.register_module()
class TinyTagger:
    """The main colour of the picture as a tag."""

    def __init__(self, score=0.9):
        self.score = score

    def detect(self, images):
        found = []
        for image in images:
            mean = np.asarray(image.convert("RGB"), float).mean((0, 1))
            name = min(COLOURS, key=lambda c: np.abs(np.array(COLOURS[c]) - mean).sum())
            found.append([Tag(f"{name} thing", self.score, (0.0, 0.0, 4.0, 4.0), 0.25), Tag("speck", 0.1, None, 0.01)])
        return found


@DATASETS.register_module()
class TinyPhotos:
    """Photos that the painter could have made; some can be made not to decode."""

    def __init__(self, num=12, seed=5, broken=()):
        self._captions = sentences(2 * num, seed)
        self.keys = [f"photo {i}.jpg" for i in range(num)]
        self.broken = set(broken)

    def __len__(self):
        return len(self.keys)

    def load(self, i):
        if i in self.broken:
            raise ValueError(f"{self.keys[i]} does not decode")
        return TinyPainter().generate([self._captions[2 * i].text], [i])[0]

    def references(self, i):
        return [c.text for c in self._captions[2 * i : 2 * i + 2]]

    def describe(self):
        return f"{len(self)} tiny photos"
