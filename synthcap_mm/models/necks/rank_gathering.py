"""Rows of a tensor from all ranks of a distributed run."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Number of ranks, 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Concatenate the ranks' rows in rank order.

    Every rank must call it. The result carries no gradient.

    Args:
        rows (Tensor): ``(B, ...)``; B may differ between ranks, the rest not.

    Returns:
        tuple[Tensor, int]: ``(sum of B, ...)``, and where this rank's rows begin.
    """
    rows = rows.detach().contiguous()
    if world_size() == 1:
        return rows, 0
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    # Collectives want equal shapes: pad to the longest.
    padded = F.pad(rows, [0, 0] * (rows.dim() - 1) + [0, max(sizes) - len(rows)])
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    everything = torch.cat([piece[:size] for piece, size in zip(gathered, sizes)])
    return everything, sum(sizes[: dist.get_rank()])
