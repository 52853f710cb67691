"""Unit rows of a table, and FAISS where it is asked for."""

import sys

import numpy as np
import pytest
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.store import Store
from synthcap_mm.store.unit_rows import UnitRows, row_cosines
from synthcap_mm.synthesis.curation import Curation
from synthcap_mm.synthesis.neighbours import ExactSearch, FaissSearch, make_search


@pytest.fixture()
def tables(tmp_path):
    store = Store.open(make_store(tmp_path / "store"))
    return store.captions, store.images


def test_unit_rows(tables):
    captions, _ = tables
    rows = UnitRows(captions, np.array([100, 3, 40, 3]))
    assert rows.shape == (4, 16) and len(rows) == 4
    np.testing.assert_allclose(rows[:], unit(captions.features([100, 3, 40, 3])), atol=1e-6)
    np.testing.assert_array_equal(rows[np.array([2])], rows[2:3])
    assert rows[:].dtype == np.float32


def test_row_cosines(tables):
    a, b = (UnitRows(t) for t in tables)
    rows = np.arange(0, 120, 7)
    expected = (unit(tables[0].features(rows)) * unit(tables[1].features(rows[::-1]))).sum(1)
    np.testing.assert_allclose(row_cosines(a, rows, b, rows[::-1], at_once=4), expected, atol=1e-6)


def test_faiss_is_asked_for_by_name_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    assert isinstance(make_search("exact", 10, "cpu"), ExactSearch)
    with pytest.raises(ImportError, match=r"curation.search='faiss'.*pip install 'synthcap_mm\[faiss\]'"):
        make_search("faiss", 10, "cpu")


def test_faiss_finds_what_the_exact_search_finds_when_it_looks_everywhere(tables, tmp_path):
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install 'synthcap_mm[faiss]'")
    queries, database = (UnitRows(t) for t in tables)
    exact = ExactSearch(block=50).over(database, tmp_path / "none")(queries[:], 9)
    search = FaissSearch(factory="IVF5,Flat", nprobe=5, block=50)
    search.prepare(database, tmp_path / "index")
    found = search.over(database, tmp_path / "index")(queries[:], 9)
    np.testing.assert_array_equal(found[1], exact[1])
    np.testing.assert_array_equal(found[0], exact[0])
    # lists of 24 rows on average: one of them does not hold 60, so the query is searched exactly
    few = FaissSearch(factory="IVF5,Flat", nprobe=1)
    np.testing.assert_array_equal(
        few.over(database, tmp_path / "index")(queries[:4], 60)[1],
        ExactSearch().over(database, tmp_path)(queries[:4], 60)[1],
    )


def test_faiss_in_a_curation(tmp_path):
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install 'synthcap_mm[faiss]'")
    path = make_store(tmp_path / "store")
    exact = Curation(path, [{"type": "reassign"}], name="exact", device="cpu").run()
    search = {"type": "faiss", "factory": "Flat"}
    assert (
        Curation(path, [{"type": "reassign"}], name="faiss", search=search, device="cpu").run()["after"]
        == exact["after"]
    )
    with pytest.raises(UserError, match="FAISS says"):
        Curation(
            path, [{"type": "reassign"}], name="bad", search={"type": "faiss", "factory": "NoSuch"}, device="cpu"
        ).run()


def test_bad_faiss_settings():
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install 'synthcap_mm[faiss]'")
    with pytest.raises(UserError, match="nprobe"):
        make_search({"type": "faiss", "nprobe": 0}, 10, "cpu")
