"""Exact nearest rows of a feature table, block by block."""

from __future__ import annotations

from typing import Any

import torch

#: Rows that the float32 pass keeps beyond k for the float64 pass to choose from.
MARGIN = 16


def blockwise_topk(queries: Any, database: Any, k: int, block: int = 8192) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of ``database`` with the largest inner product with each query.

    The whole table is searched, one block of rows at a time, so that neither a
    ``(Q, N)`` matrix nor a float32 copy of the table ever exists. Blocks are
    scored in float32; the best ``k + MARGIN`` candidates of each query are
    scored again in float64, and where float32's rounding could have hidden a
    better row, the query alone is searched in float64. So the answer is that of
    a float64 search, and it depends neither on ``block`` nor on which queries
    are asked together. Rows with equal scores come lower row first.

    Args:
        queries: ``(Q, D)`` tensor or array. The search runs on its device.
        database: ``(N, D)`` array, memory map or tensor of any float type;
            rows are used as they are stored (not normalised again).
        k: number of rows wanted for each query.
        block: rows scored at a time. Defaults to 8192.

    Returns:
        tuple: ``scores (Q, k)`` float32 and ``rows (Q, k)`` int64, best first, on
        the device of ``queries``.

    Raises:
        ValueError: if shapes do not fit, ``k`` is not in 1..N, ``block`` is
            below 1, or a feature is not finite (the row is named).
    """
    queries = torch.as_tensor(queries)
    if queries.ndim != 2 or len(database.shape) != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            "queries and database must be (Q, D) and (N, D) with the same D; "
            f"got {tuple(queries.shape)} and {tuple(database.shape)}"
        )
    count, width = int(database.shape[0]), int(database.shape[1])
    if not 1 <= k <= count:
        raise ValueError(f"k={k} rows asked for, but the database has {count}; k must be between 1 and {count}")
    if block < 1:
        raise ValueError(f"block={block} rows at a time; it must be 1 or more")
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        # float64 queries are kept as they are for the second pass
        exact_queries = queries.double()
        queries = queries.float()
        _check_finite(queries, 0, "queries")
        approximate, rows, largest_norm = _candidates(queries, database, min(k + MARGIN, count), block)
        scores, rows = _rescore(exact_queries, database, rows)
        if rows.shape[1] < count:
            # A row that was left out scores at most `floor` + error; a query whose k-th row does not clear that by
            # the error bound of a float32 dot product (D + 2 roundings of relative size u) is searched exactly.
            floor = approximate.min(dim=1).values.double()
            unit = 2.0**-11 if _tf32_possible(queries) else 2.0**-24
            error = 2 * (width + 2) * unit * exact_queries.norm(dim=1) * largest_norm
            for query in torch.nonzero(scores[:, k - 1] <= floor + error).flatten().tolist():
                scores[query, :k], rows[query, :k] = _exact_search(exact_queries[query], database, k, block)
    return scores[:, :k].float(), rows[:, :k].contiguous()


def _block(database: Any, start: int, stop: int, device: torch.device) -> torch.Tensor:
    rows = database[start:stop]
    if not isinstance(rows, torch.Tensor):
        # a copy, since a read-only memory map cannot back a tensor
        rows = torch.from_numpy(rows.copy())
    return rows.to(device)


def _check_finite(features: torch.Tensor, start: int, name: str) -> None:
    finite = torch.isfinite(features).all(dim=1)
    if not bool(finite.all()):
        row = start + int(torch.nonzero(~finite)[0])
        raise ValueError(f"row {row} of the {name} has features that are not finite (NaN or infinite)")


def _tf32_possible(queries: torch.Tensor) -> bool:
    return queries.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"


def _candidates(
    queries: torch.Tensor, database: Any, keep: int, block: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best ``keep`` rows by float32 score, and the largest norm of a row."""
    best = queries.new_empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.long, device=queries.device)
    largest_norm = 0.0
    for start in range(0, int(database.shape[0]), block):
        part = _block(database, start, start + block, queries.device).float()
        _check_finite(part, start, "database")
        largest_norm = max(largest_norm, float(part.norm(dim=1).max()))
        found, at = (queries @ part.T).topk(min(keep, len(part)), dim=1)
        best, rows = torch.cat([best, found], dim=1), torch.cat([rows, at + start], dim=1)
        best, order = best.topk(min(keep, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return best, rows, largest_norm


def _rescore(queries: torch.Tensor, database: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores the candidates in float64 and sorts them, best first and lower row first among equals."""
    # ascending rows first: the stable sort by score then keeps the lower row first among equals
    rows = rows.sort(dim=1).values
    scores = torch.empty(rows.shape, dtype=torch.float64, device=queries.device)
    at_once = max(1, 2**23 // max(1, rows.shape[1] * queries.shape[1]))  # 64 MB of float64
    for start in range(0, len(queries), at_once):
        part = slice(start, start + at_once)
        wanted, inverse = rows[part].unique(return_inverse=True)
        features = _take(database, wanted).double()[inverse]
        scores[part] = (features * queries[part].unsqueeze(1)).sum(dim=-1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return scores.gather(1, order), rows.gather(1, order)


def _take(database: Any, rows: torch.Tensor) -> torch.Tensor:
    if isinstance(database, torch.Tensor):
        return database[rows.to(database.device)].to(rows.device)
    return torch.from_numpy(database[rows.cpu().numpy()]).to(rows.device)


def _exact_search(query: torch.Tensor, database: Any, k: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One query against every row in float64: ``(k,)`` scores and rows."""
    scores = []
    for start in range(0, int(database.shape[0]), block):
        part = _block(database, start, start + block, query.device).double()
        scores.append((part * query).sum(dim=-1))
    found, order = torch.cat(scores).sort(descending=True, stable=True)
    return found[:k], order[:k]
