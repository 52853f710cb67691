"""Datasets within datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def nested_datasets(dataset: Any) -> Iterator[Any]:
    """A dataset, and all that it wraps (concatenated, repeated, subsets), from the outside in."""
    yield dataset
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for part in inner:
        if part is not None:
            yield from nested_datasets(part)
