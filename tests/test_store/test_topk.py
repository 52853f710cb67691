import numpy as np
import pytest
import torch

from synthcap_mm.store import topk
from synthcap_mm.store.topk import blockwise_topk


def unit(count, dim, seed, dtype=np.float32):
    feats = np.random.default_rng(seed).normal(size=(count, dim))
    return (feats / np.linalg.norm(feats, axis=1, keepdims=True)).astype(dtype)


def reference(queries, database, k):
    """Plain float64 search, lower row first among equals."""
    database = np.asarray(database, dtype=np.float64)
    queries = np.asarray(queries, dtype=np.float64)
    scores = np.stack([(database * query).sum(axis=1) for query in queries])
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("k, block", [(1, 100), (5, 64), (5, 1000), (40, 7), (997, 300)])
def test_equals_a_float64_search(k, block):
    queries, database = unit(23, 48, 0), unit(997, 48, 1, np.float16)
    scores, rows = blockwise_topk(queries, database, k, block)
    expected_scores, expected_rows = reference(queries, database, k)
    assert scores.shape == rows.shape == (23, k)
    assert scores.dtype == torch.float32 and rows.dtype == torch.int64
    np.testing.assert_array_equal(rows.numpy(), expected_rows)
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-6)


def test_memory_map_and_tensor(tmp_path):
    queries, database = unit(4, 16, 0), unit(300, 16, 1, np.float16)
    database.tofile(tmp_path / "feats.bin")
    mapped = np.memmap(tmp_path / "feats.bin", dtype=np.float16, mode="r", shape=(300, 16))
    expected = blockwise_topk(queries, database, 3)
    for same in (mapped, torch.from_numpy(database)):
        for found, wanted in zip(blockwise_topk(torch.from_numpy(queries), same, 3, block=50), expected):
            assert torch.equal(found, wanted)


def test_ties_take_the_lower_row():
    database = np.tile(unit(3, 8, 0), (20, 1))  # row i equals rows i + 3, i + 6, ...
    queries = unit(3, 8, 0)
    _, rows = blockwise_topk(queries, database, 4, block=7)
    assert rows.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_more_ties_than_candidates():
    """Hundreds of equal rows: which of them float32 puts among its candidates must not matter."""
    same = unit(1, 64, 0)
    database = np.concatenate([unit(50, 64, 1), np.repeat(same, 400, axis=0), unit(50, 64, 2)])
    for block in (33, 500):
        _, rows = blockwise_topk(np.concatenate([same, unit(1, 64, 3)]), database, 5, block)
        assert rows[0].tolist() == [50, 51, 52, 53, 54]
        np.testing.assert_array_equal(rows.numpy(), reference(np.concatenate([same, unit(1, 64, 3)]), database, 5)[1])


def test_differences_below_float32():
    """Rows that differ in the ninth digit, more of them than there are candidates."""
    rng = np.random.default_rng(0)
    database = (unit(1, 64, 0, np.float64) + rng.normal(size=(200, 64)) * 1e-9).astype(np.float64)
    queries = unit(2, 64, 0, np.float64)
    _, rows = blockwise_topk(queries, database, 3, block=64)
    np.testing.assert_array_equal(rows.numpy(), reference(queries, database, 3)[1])


def test_answer_depends_neither_on_block_nor_on_company():
    queries, database = unit(40, 32, 0), unit(500, 32, 1, np.float16)
    scores, rows = blockwise_topk(queries, database, 3)
    for block in (1, 13, 499, 5000):
        assert all(torch.equal(a, b) for a, b in zip(blockwise_topk(queries, database, 3, block), (scores, rows)))
    alone = [blockwise_topk(queries[i : i + 1], database, 3) for i in range(40)]
    assert torch.equal(torch.cat([r for _, r in alone]), rows) and torch.equal(torch.cat([s for s, _ in alone]), scores)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blockwise_topk(queries, database, 3)[1], rows)


def test_no_query_by_database_matrix(monkeypatch):
    """Reads the database in blocks only, and never more rows at once than it was told."""

    class Watched:
        def __init__(self, array):
            self.array, self.shape, self.most = array, array.shape, 0

        def __getitem__(self, rows):
            part = self.array[rows]
            self.most = max(self.most, len(part))
            return part

    watched = Watched(unit(5000, 16, 1))
    blockwise_topk(unit(2, 16, 0), watched, 2, block=128)
    assert watched.most <= 128


def test_no_queries():
    scores, rows = blockwise_topk(np.empty((0, 8), np.float32), unit(30, 8, 0), 2)
    assert scores.shape == rows.shape == (0, 2)


def test_bad_input():
    queries, database = unit(2, 8, 0), unit(9, 8, 1)
    with pytest.raises(ValueError, match=r"same D; got \(2, 8\) and \(9, 7\)"):
        blockwise_topk(queries, database[:, :7], 1)
    for k in (0, 10):
        with pytest.raises(ValueError, match=f"k={k} rows asked for, but the database has 9"):
            blockwise_topk(queries, database, k)
    with pytest.raises(ValueError, match="block=0"):
        blockwise_topk(queries, database, 1, block=0)
    database[6, 3] = np.nan
    with pytest.raises(ValueError, match="row 6 of the database"):
        blockwise_topk(queries, database, 1, block=4)
    queries[1, 0] = np.inf
    with pytest.raises(ValueError, match="row 1 of the queries"):
        blockwise_topk(queries, database, 1)
    assert topk.MARGIN > 0
