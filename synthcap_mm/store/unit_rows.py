"""Features of a table as unit vectors, read as they are used."""

from __future__ import annotations

import numpy as np
import torch

from synthcap_mm.store.tables import ShardedTable


class UnitRows:
    """Rows of a table's features, L2-normalised as they are read; nothing is held in memory.

    Features are stored rounded to float16, which leaves their lengths off by up to
    one in a thousand; similarities here are cosines.

    Args:
        table: a table with features.
        rows: the rows that count, in this order. Default ``None``: all.
    """

    def __init__(self, table: ShardedTable, rows: np.ndarray | None = None) -> None:
        self._table = table
        self.rows = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
        self.shape = (len(self.rows), int(table.dim or 0))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """``(M, D)`` float32."""
        features = torch.from_numpy(self._table.features(self.rows[index])).float().numpy()
        # numpy's sum over a row does not depend on how many rows there are: the same for any split of the work
        return features / np.maximum(np.sqrt((features * features).sum(1, keepdims=True)), 1e-12)


def row_cosines(a: UnitRows, a_rows: np.ndarray, b: UnitRows, b_rows: np.ndarray, at_once: int = 4096) -> np.ndarray:
    """Cosine of ``a[a_rows[i]]`` and ``b[b_rows[i]]`` for each i, ``(N,)`` float64."""
    out = np.empty(len(a_rows))
    for start in range(0, len(out), at_once):
        part = slice(start, start + at_once)
        out[part] = (a[a_rows[part]].astype(np.float64) * b[b_rows[part]]).sum(1)
    return out
