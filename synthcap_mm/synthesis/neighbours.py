"""Nearest rows of a store's tables, exactly or with FAISS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.files import write_once
from synthcap_mm.options import Count, Name, check_when_built
from synthcap_mm.requirements import require
from synthcap_mm.store.topk import blockwise_topk
from synthcap_mm.store.unit_rows import UnitRows

#: ``(queries (Q, D), k)`` → scores ``(Q, k)`` float32 and rows ``(Q, k)`` int64, best first, on the CPU.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@check_when_built
class ExactSearch:
    """Every row is looked at, one block at a time; see :func:`blockwise_topk`.

    Args:
        block: rows scored at a time. Default 8192.
        device: of the computation. Default ``'cpu'``.
    """

    def __init__(self, block: int = 8192, device: str | torch.device = "cpu") -> None:
        self.block, self.device = block, torch.device(device)

    def prepare(self, database: UnitRows, file: Path) -> None:
        """Nothing to prepare."""

    def over(self, database: UnitRows, file: Path) -> Search:
        """The search among ``database``'s rows."""

        def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            on_device = torch.from_numpy(queries).to(self.device)
            scores, rows = blockwise_topk(on_device, database, k, self.block)
            return scores.cpu().numpy(), rows.cpu().numpy()

        return search


@check_when_built
class FaissSearch:
    """Approximate search by an index of FAISS (``pip install 'synthcap_mm[faiss]'``).

    Rows that the index finds are scored again as the exact search scores them; a
    query for which it finds fewer than wanted is searched exactly. One rank builds
    the index, all search the same. Other versions of FAISS or numbers of threads
    can build another index, and so find other rows.

    Args:
        factory: FAISS's index factory string. Default ``None``: ``IVF<n>,SQfp16`` with
            n the square root of the number of rows, between 1 and 65536 (assumed).
        nprobe: lists of an IVF index that a query looks into; more is slower
            and nearer to exact. Default 32 (assumed).
        train_rows: rows that the index is trained on. Default 65536 (assumed).
        block: rows added at a time, and of the exact search. Default 8192.
        device: of the exact search. Default ``'cpu'``.

    Raises:
        ImportError: with the pip command, if FAISS is missing.
        UserError: if FAISS does not know the factory string, or an option is wrong.
    """

    def __init__(
        self,
        factory: Name | None = None,
        nprobe: Count = 32,
        train_rows: Count = 65536,
        block: Count = 8192,
        device: str | torch.device = "cpu",
    ) -> None:
        self._faiss = require("faiss", "faiss", "curation.search='faiss'")
        self.factory, self.nprobe, self.train_rows, self.block = factory, nprobe, train_rows, block
        self._exact = ExactSearch(block, device)

    def prepare(self, database: UnitRows, file: Path) -> None:
        """Build the index and write it to ``file`` (one rank calls it)."""
        count, dim = database.shape
        factory = self.factory or f"IVF{min(max(int(count**0.5), 1), 65536)},SQfp16"
        try:
            index = self._faiss.index_factory(dim, factory, self._faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UserError(f"curation.search.factory={factory!r}: FAISS says {error}") from error
        chosen = np.sort(np.random.default_rng(0).permutation(count)[: self.train_rows])
        index.train(database[chosen])
        for start in range(0, count, self.block):
            index.add(database[start : start + self.block])
        with write_once(file) as out:
            out.write(self._faiss.serialize_index(index).tobytes())

    def over(self, database: UnitRows, file: Path) -> Search:
        """The search among ``database``'s rows, by the index in ``file``."""
        index = self._faiss.deserialize_index(np.fromfile(file, np.uint8))
        if isinstance(index, self._faiss.IndexIVF):
            index.nprobe = min(self.nprobe, index.nlist)
        exact = self._exact.over(database, file)

        def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            _, rows = index.search(np.ascontiguousarray(queries, np.float32), k)
            scores = np.empty(rows.shape)
            for i, query in enumerate(queries.astype(np.float64)):
                if (rows[i] < 0).any():
                    continue
                found = np.sort(rows[i])  # a stable sort by score keeps the lower row first among equals
                values = database[found].astype(np.float64) @ query
                order = np.argsort(-values, kind="stable")
                rows[i], scores[i] = found[order], values[order]
            short = np.flatnonzero((rows < 0).any(1))
            if len(short):
                scores[short], rows[short] = exact(queries[short], k)
            return scores.astype(np.float32), rows

        return search


#: By what ``curation.search`` calls them.
SEARCHES = {"exact": ExactSearch, "faiss": FaissSearch}


def make_search(settings: str | dict[str, Any], block: int, device: str | torch.device) -> ExactSearch | FaissSearch:
    """The search that ``curation.search`` asks for.

    Args:
        settings: ``'exact'``, ``'faiss'``, or ``dict(type='faiss', …)`` with the
            arguments of :class:`FaissSearch`.
        block: rows scored at a time.
        device: of the computation.

    Raises:
        UserError: for an option that it does not take.
    """
    options = {"block": block, **(settings if isinstance(settings, dict) else {"type": settings}), "device": device}
    return SEARCHES[options.pop("type")](**options)
