"""Softmax attention over a large memory that never holds a (batch x memory) matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_MINUS_INF = float("-inf")


def block_logits(
    scaled_query: Tensor, memory: Tensor, excluded: Tensor | None, block_size: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield ``(logits (B, b), block (b, D), first row)`` for one block of the memory after another."""
    for start in range(0, len(memory), block_size):
        block = memory[start : start + block_size]
        logits = scaled_query @ block.T
        if excluded is not None:
            # Without nonzero(), which would wait for the GPU.
            inside = (excluded >= start) & (excluded < start + len(block))
            column = (excluded - start).clamp(0, len(block) - 1).unsqueeze(1)
            kept = logits.gather(1, column)
            logits.scatter_(1, column, kept.masked_fill(inside.unsqueeze(1), _MINUS_INF))
        yield logits, block, start


class _OnlineSoftmax:
    """Sums over blocks of ``exp(logit)`` times rows, rescaled whenever the maximum grows."""

    def __init__(self, query: Tensor) -> None:
        self.maximum = query.new_full((len(query), 1), _MINUS_INF)
        self.normaliser = query.new_zeros((len(query), 1))
        self.total = torch.zeros_like(query)
        self.mass = query.new_zeros((len(query), 1))

    def exponentials_(self, logits: Tensor) -> Tensor:
        """Turn a block's logits, in place, into their weights relative to the maximum so far."""
        maximum = torch.maximum(self.maximum, logits.amax(dim=1, keepdim=True))
        # A block may hold nothing but an excluded row: -inf - -inf must not become NaN.
        finite = maximum.clamp_min(torch.finfo(logits.dtype).min)
        rescale = (self.maximum - finite).exp_()
        self.maximum = maximum
        weights = logits.sub_(finite).exp_()
        self.normaliser.mul_(rescale).add_(weights.sum(dim=1, keepdim=True))
        self.total.mul_(rescale)
        self.mass.mul_(rescale)
        return weights

    def mean(self) -> Tensor:
        return self.total / self.normaliser


def _attend_blockwise(
    query: Tensor, memory: Tensor, temperature: float, excluded: Tensor | None, block_size: int
) -> Tensor:
    state = _OnlineSoftmax(query)
    for logits, block, _ in block_logits(query / temperature, memory, excluded, block_size):
        state.total.addmm_(state.exponentials_(logits), block)
    return state.mean()


def _attend(query: Tensor, memory: Tensor, temperature: float, excluded: Tensor | None, block_size: int) -> Tensor:
    # The fused kernel is the faster on a CPU. On a GPU it would give a whole memory to the few
    # thread blocks that one head of B queries makes (reasoned, not measured), and may fall back to the
    # B x M matrix; blocks of plain matrix products have neither fault.
    if excluded is None and query.device.type == "cpu":
        q, m = query[None, None], memory[None, None]
        return F.scaled_dot_product_attention(q, m, m, scale=1.0 / temperature)[0, 0]
    return _attend_blockwise(query, memory, temperature, excluded, block_size)


class _MemoryAttention(torch.autograd.Function):
    """Attention whose backward is for the query only, in one pass over the memory.

    PyTorch's own backward would differentiate the memory too. With output
    ``o = sum p_i m_i`` and incoming gradient ``g``, the query's gradient is
    ``1/T * sum p_i (g.m_i - g.o) m_i``; the weights are recomputed with an
    online softmax, so that neither they nor their log-sum-exp are kept.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, memory: Tensor, temperature: float, excluded: Tensor | None, block_size: int
    ) -> Tensor:
        output = _attend(query, memory, temperature, excluded, block_size)
        ctx.save_for_backward(query, memory, output, excluded)
        ctx.temperature, ctx.block_size = temperature, block_size
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        query, memory, output, excluded = ctx.saved_tensors
        # g.o is subtracted inside the sum, since outside it nearly equal numbers would cancel; and o from each m_i,
        # which changes nothing in exact arithmetic but takes away what rounding left.
        mean = (grad * output).sum(dim=1, keepdim=True)
        state = _OnlineSoftmax(query)
        for logits, block, _ in block_logits(query / ctx.temperature, memory, excluded, ctx.block_size):
            weights = state.exponentials_(logits)
            weights.mul_(torch.addmm(mean, grad, block.T, beta=-1.0))
            state.mass.add_(weights.sum(dim=1, keepdim=True))
            state.total.addmm_(weights, block)
        state.total.sub_(state.mass * output)
        return state.mean() / ctx.temperature, None, None, None, None


def memory_attention(
    query: Tensor, memory: Tensor, temperature: float, excluded: Tensor | None = None, block_size: int = 8192
) -> Tensor:
    """``softmax(query @ memory.T / temperature) @ memory``, exactly, in little memory.

    Differentiable in ``query`` (once), not in ``memory``. The largest
    intermediate is ``(B, block_size)``.

    Args:
        query (Tensor): ``(B, D)``, float32 or float64.
        memory (Tensor): ``(M, D)`` of the same dtype and device.
        temperature (float): divides the inner products.
        excluded (Tensor, optional): ``(B,)`` long, for each query the row of the
            memory that it must not see, or -1. Defaults to ``None``.
        block_size (int): rows of the memory at a time. Defaults to 8192.

    Returns:
        Tensor: ``(B, D)``, not normalised.

    Raises:
        ValueError: if shapes or dtypes do not fit, if the memory is empty, or if
            leaving a row out leaves nothing.
    """
    if query.dim() != 2 or memory.dim() != 2 or query.shape[1] != memory.shape[1]:
        raise ValueError(
            f"query must be (B, D) and memory (M, D) with the same D; got {tuple(query.shape)} and "
            f"{tuple(memory.shape)}: were the features made with another encoder than the memory's?"
        )
    if query.dtype != memory.dtype:
        raise ValueError(f"query and memory must have one dtype; got {query.dtype} and {memory.dtype}.")
    if len(memory) == 0:
        raise ValueError("the memory is empty: there is nothing to project onto.")
    if excluded is not None and len(memory) == 1 and bool((excluded == 0).any()):
        raise ValueError("the memory has a single row, and excluding a caption's own row leaves none; give it more.")
    if torch.is_grad_enabled() and query.requires_grad:
        return _MemoryAttention.apply(query, memory, temperature, excluded, block_size)
    return _attend(query, memory, temperature, excluded, block_size)


class BestRows:
    """The rows of largest logits of each query, over blocks of a memory; fewer than ``k`` while there are no more.

    Attributes:
        values: ``(B, k)``, largest first.
        rows: ``(B, k)`` long.
    """

    def __init__(self, query: Tensor, k: int) -> None:
        self.k = k
        self.values = query.new_empty((len(query), 0))
        self.rows = torch.empty((len(query), 0), dtype=torch.long, device=query.device)

    def add(self, logits: Tensor, start: int) -> None:
        """Look at a block's logits ``(B, b)``, whose first row is ``start``."""
        values, columns = logits.topk(min(self.k, logits.shape[1]), dim=1)
        values, rows = torch.cat([self.values, values], dim=1), torch.cat([self.rows, columns + start], dim=1)
        self.values, keep = values.topk(min(self.k, values.shape[1]), dim=1)
        self.rows = rows.gather(1, keep)


def top_memory(
    query: Tensor, memory: Tensor, temperature: float, k: int, block_size: int = 8192
) -> tuple[Tensor, Tensor]:
    """The rows of the memory that :func:`memory_attention` weighs most.

    Args:
        query (Tensor): ``(B, D)``.
        memory (Tensor): ``(M, D)``.
        temperature (float): divides the inner products.
        k (int): how many rows, at most M.
        block_size (int): rows of the memory at a time. Defaults to 8192.

    Returns:
        tuple[Tensor, Tensor]: weights ``(B, k)``, largest first, as shares of the
        whole memory (so they sum to 1 only where ``k`` is M), and rows ``(B, k)``, long.

    Raises:
        ValueError: if ``k`` is not in [1, M].
    """
    if not 1 <= k <= len(memory):
        raise ValueError(f"k must be between 1 and the memory's {len(memory)} rows; got {k}.")
    normaliser = query.new_full((len(query),), _MINUS_INF)
    best = BestRows(query, k)
    for logits, _, start in block_logits(query / temperature, memory, None, block_size):
        normaliser = torch.logaddexp(normaliser, logits.logsumexp(dim=1))
        best.add(logits, start)
    return (best.values - normaliser.unsqueeze(1)).exp(), best.rows
