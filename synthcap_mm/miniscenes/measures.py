"""Loads the mini-CLIP with open_clip alone, and measures what its features, and tags, tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.files import read_json
from synthcap_mm.miniscenes import MINICLIP_CONFIG, MINICLIP_CONTEXT, MINICLIP_TOKENIZER, MINICLIP_WEIGHTS
from synthcap_mm.miniscenes.language import coloured_name
from synthcap_mm.miniscenes.scenes import KINDS

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthcap_mm.miniscenes.scenes import Scene
    from synthcap_mm.models.tag_providers.base import BaseTagProvider

#: What open_clip's preprocess subtracts and divides by where nothing else is said.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def build_miniclip(config: str | Path = MINICLIP_CONFIG) -> nn.Module:
    """The mini-CLIP without its weights, in training mode."""
    import open_clip

    return open_clip.CLIP(**read_json(config))


def miniclip_tokenizer(path: str | Path = MINICLIP_TOKENIZER) -> Any:
    """The tokenizer: sentences to ``(N, 28)`` token ids, padded by zeros."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(path), context_length=MINICLIP_CONTEXT)


def load_miniclip(weights: str | Path = MINICLIP_WEIGHTS) -> tuple[nn.Module, Any]:
    """The mini-CLIP in evaluation mode, float32, and its tokenizer."""
    import open_clip

    model = build_miniclip()
    open_clip.load_checkpoint(model, str(weights))
    return model.eval().float(), miniclip_tokenizer()


def to_pixels(images: Sequence[Image]) -> Tensor:
    """Pictures of the model's own size as ``(N, 3, H, W)`` float32, normalised."""
    pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def image_features(model: nn.Module, images: Sequence[Image], batch: int = 128) -> Tensor:
    """``(N, D)`` normalised image features."""
    parts = [model.encode_image(to_pixels(images[i : i + batch]), normalize=True) for i in range(0, len(images), batch)]
    return torch.cat(parts)


@torch.no_grad()
def text_features(model: nn.Module, tokenizer: Any, texts: Sequence[str], batch: int = 128) -> Tensor:
    """``(N, D)`` normalised text features."""
    texts = list(texts)
    parts = [model.encode_text(tokenizer(texts[i : i + batch]), normalize=True) for i in range(0, len(texts), batch)]
    return torch.cat(parts)


def recall_at_1(queries: Tensor, answers: Tensor) -> float:
    """Share of rows of ``queries`` whose most similar row of ``answers`` is their own."""
    return float(((queries @ answers.T).argmax(1) == torch.arange(len(queries))).float().mean())


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, steps: int = 300, decay: float = 1e-4
) -> float:
    """Accuracy on ``test`` of a linear classifier trained on ``train`` (full batch, Adam, cross-entropy)."""
    centre, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (train - centre) / spread, (test - centre) / spread
    layer = nn.Linear(train.shape[1], int(max(train_labels.max(), test_labels.max())) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(layer(train), train_labels).backward()
        optimizer.step()
    with torch.no_grad():
        return float((layer(test).argmax(1) == test_labels).float().mean())


class NamesFound(NamedTuple):
    """What tags tell of scenes, as shares.

    Attributes:
        kinds: of the groups, those whose kind is named, in whatever colour.
        coloured: of the groups, those named in their colour.
        right: of the names, those of a group that is there.
    """

    kinds: float
    coloured: float
    right: float


def names_found(
    tagger: BaseTagProvider, images: Sequence[Image], scenes: Sequence[Scene], min_score: float = 0.3, batch: int = 128
) -> NamesFound:
    """How well tags name the groups of the scenes that ``images`` show."""
    kinds, coloured, right = [], [], []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        for tags, scene in zip(tagger.detect(list(images[part])), scenes[part]):
            names = {tag.name for tag in tags if tag.score >= min_score}
            true = {coloured_name(g.kind, g.colour) for g in scene.groups}
            kinds += [any(coloured_name(g.kind, c) in names for c in KINDS[g.kind].colours) for g in scene.groups]
            coloured += [name in names for name in true]
            right += [name in true for name in names]
    return NamesFound(*(float(np.mean(x)) if x else 0.0 for x in (kinds, coloured, right)))
