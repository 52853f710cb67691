"""The mini-world's detector: a small convolutional network that finds each object, its colour and its box.

It stands for a detector trained on annotated photos, as mmdet's on COCO: trained on photos of other scenes
(``tools/misc/train_minidetector.py``), it never saw a drawing. Kind and colour have outputs of their own, so that
combinations which it never saw can be named.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthcap_mm.exportable import data
from synthcap_mm.miniscenes import MINIDETECTOR_WEIGHTS
from synthcap_mm.miniscenes.language import coloured_name
from synthcap_mm.miniscenes.scenes import COLOURS, KINDS
from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.options import Count, Part
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import Tag

if TYPE_CHECKING:
    from PIL.Image import Image

#: Side of the pictures that the network takes, and of its map of places, in pixels and cells.
SIDE, CELLS = 64, 16
#: Outputs of a cell: each kind, each colour, width and height (logarithms of shares), and the centre's place in it.
OUTPUTS = len(KINDS) + len(COLOURS) + 4


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class MiniDetector(nn.Module):
    """Objects as points (as in CenterNet, Zhou et al. 2019): a map of 16 × 16 cells says what has its centre there.

    Args:
        width: channels at the map's resolution; half of it before, 3/2 and twice of it below. Default 48 (assumed).
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        deep, deepest = width * 3 // 2, width * 2
        self.stem = nn.Sequential(_conv(3, width // 2, 2), _conv(width // 2, width, 2), _Residual(width))
        self.down = nn.Sequential(_conv(width, deep, 2), _Residual(deep), _Residual(deep))
        self.bottom = nn.Sequential(_conv(deep, deepest, 2), _Residual(deepest))
        self.from_bottom = nn.Conv2d(deepest, deep, 1)
        self.from_down = nn.Conv2d(deep, width, 1)
        self.head = nn.Sequential(_Residual(width), _conv(width, width * 2), nn.Conv2d(width * 2, OUTPUTS, 1))
        # Centres are rare: begin by expecting none, as focal losses want it.
        nn.init.constant_(self.head[-1].bias[: len(KINDS)], -4.0)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(N, 3, 64, 64)`` pixels in [-1, 1] to ``(N, 43, 16, 16)`` logits and numbers (see :data:`OUTPUTS`)."""
        fine = self.stem(pixels)
        middle = self.down(fine)
        coarse = F.interpolate(self.from_bottom(self.bottom(middle)), scale_factor=2.0)
        middle = F.relu(middle + coarse)
        fine = F.relu(fine + F.interpolate(self.from_down(middle), scale_factor=2.0))
        return self.head(fine)


def to_pixels(images: list[Image]) -> Tensor:
    """Pictures as ``(N, 3, 64, 64)`` float32 in [-1, 1], scaled to 64 × 64 where they are larger or smaller."""
    side = (SIDE, SIDE)
    arrays = [np.asarray((i if i.size == side else i.resize(side)).convert("RGB")) for i in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


_ALLOWED = torch.tensor([[colour in kind.colours for colour in COLOURS] for kind in KINDS.values()])


@MODELS.register_module()
class MiniScenesTagger(BaseTagProvider):
    """The mini-world's detector as a tag provider; it sees pixels only.

    Names are a kind in its colour, as detectors with attributes give them (Visual Genome's): ``'red dog'``,
    ``'woman in blue'``. Several objects may have one name.

    Args:
        weights: a file that ``tools/misc/train_minidetector.py`` wrote. Defaults to the one that ships.
        max_tags: see :class:`BaseTagProvider`. Defaults to 20.
        min_score: see :class:`BaseTagProvider`. Defaults to 0.05.

    Raises:
        FileNotFoundError: if the weights are missing.
    """

    exportable = data("max_tags", "min_score")

    def __init__(self, weights: str = MINIDETECTOR_WEIGHTS, max_tags: Count = 20, min_score: Part = 0.05) -> None:
        super().__init__(max_tags, min_score)
        from safetensors.torch import load_file

        if not Path(weights).is_file():
            raise FileNotFoundError(f"no weights {weights!r}; tools/misc/train_minidetector.py makes them")
        self.weights = weights
        self.model = MiniDetector()
        self.model.load_state_dict(load_file(weights))
        self.model.eval().float()

    @torch.no_grad()
    def detect(self, images: list[Image]) -> list[list[Tag]]:
        """See :meth:`BaseTagProvider.detect`; scores are the kind's, boxes are in the picture's pixels."""
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            maps = self.model(to_pixels(images).to(device)).cpu()
        kinds, colours, sizes, offsets = maps.split((len(KINDS), len(COLOURS), 2, 2), dim=1)
        scores = kinds.sigmoid()
        # A peak is at least as high as its neighbours of all kinds, so that each object is found once.
        best, kind = scores.max(dim=1)
        peaks = (best == F.max_pool2d(best[:, None], 3, 1, 1)[:, 0]) & (best > self.min_score)
        found: list[list[Tag]] = [[] for _ in images]
        for row, y, x in peaks.nonzero().tolist():
            name = int(kind[row, y, x])
            allowed = _ALLOWED[name]
            colour = int(colours[row, :, y, x].masked_fill(~allowed, -torch.inf).argmax())
            width, height = sizes[row, :, y, x].clamp(max=0).exp().tolist()
            dx, dy = offsets[row, :, y, x].tolist()
            middle = ((x + dx) / CELLS, (y + dy) / CELLS)
            x1, y1 = max(0.0, middle[0] - width / 2), max(0.0, middle[1] - height / 2)
            x2, y2 = min(1.0, middle[0] + width / 2), min(1.0, middle[1] + height / 2)
            w, h = images[row].size
            found[row].append(
                Tag(
                    coloured_name(list(KINDS)[name], COLOURS[colour]),
                    round(float(best[row, y, x]), 6),
                    (x1 * w, y1 * h, x2 * w, y2 * h),
                    max(0.0, x2 - x1) * max(0.0, y2 - y1),
                )
            )
        return [self.keep(tags) for tags in found]

    def to(self, device: str | torch.device) -> MiniScenesTagger:
        """Moves the network."""
        self.model.to(device)
        return self
