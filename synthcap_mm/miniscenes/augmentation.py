"""What ``tools/misc`` does to photos when it trains the mini-CLIP and the detector, so that few of them go far."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def each(pixels: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """A number in [low, high) for each photo, ``(N, 1, 1, 1)``."""
    return low + (high - low) * torch.rand(len(pixels), 1, 1, 1, generator=generator)


def shift_and_sharpen(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Shift all by up to 4 pixels, blur or sharpen each; no mirror, for captions say left and right.

    Args:
        pixels: ``(N, 3, H, W)``.
        generator: where the choices come from.

    Returns:
        The pixels, and the shift to the right and down.
    """
    padded = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    pixels = padded[:, :, dy : dy + pixels.shape[2], dx : dx + pixels.shape[3]]
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pixels = pixels + each(pixels, -1.0, 1.2, generator).clamp(-0.5, None) * (pixels - blurred)
    return pixels, (4 - dx, 4 - dy)


def relight(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Another contrast and brightness for each."""
    return pixels * each(pixels, 0.8, 1.2, generator) + each(pixels, -0.15, 0.15, generator)
