"""The refine stage; what it makes after changes is in test_growth.py."""

import numpy as np
from store_files import make

from synthcap_mm.store import Store
from synthcap_mm.synthesis.refine import RefineStage


def test_held_out_captions_are_no_negatives(tiny_synthesis, monkeypatch):
    loaded, load = [], RefineStage._load
    monkeypatch.setattr(
        RefineStage, "_load", lambda self, rows: (loaded.append(self._caption[rows]), load(self, rows))[1]
    )
    make(tiny_synthesis, refine={"steps": 1, "lr": 0.01, "bank_size": 10_000})
    store = Store.open(tiny_synthesis["store"])
    assert set(loaded[0]) == set(store.caption_rows("train"))
    assert {row for rows in loaded[1:] for row in rows} == set(range(40))  # held-out ones are optimised themselves


def test_shards_make_no_difference(tiny_synthesis, tiny_stores):
    """The negatives are the same for every pair."""
    make(tiny_synthesis, shard_size=7)
    a, b = (Store.open(path).refined().features() for path in (tiny_synthesis["store"], tiny_stores[0]))
    np.testing.assert_allclose(a, b, atol=1e-3)
