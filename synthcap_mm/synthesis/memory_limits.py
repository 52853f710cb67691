"""Smaller batches where memory runs out."""

from __future__ import annotations

import gc

import torch
from mmengine.logging import print_log

from synthcap_mm.errors import UserError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or off it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def smaller_batch(size: int, what: str, error: BaseException) -> int:
    """Half a batch after memory ran out; says so, and frees what the failed one held.

    Args:
        size: the batch that did not fit.
        what: what it is a batch of, for the message.
        error: what was raised; raised again if it is about something else.

    Raises:
        UserError: if nothing is left to halve.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise UserError(
            f"out of memory with a single one of the {what}: {error}. Use a smaller model or picture, a lower "
            "precision, or a device with more memory."
        ) from error
    print_log(
        f"out of memory with {size} {what} at once; going on with {size // 2}, the unfinished shard from its beginning",
        logger="current",
        level=30,
    )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
