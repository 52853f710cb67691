"""A dry run measures, and leaves nothing."""

import pytest
from store_files import files, make
from tiny_store import SEARCH

from synthcap_mm.synthesis.dry_run import describe_plan, measure_synthesis
from synthcap_mm.synthesis.synthesis import Synthesis


@pytest.mark.parametrize("kind", ["kept", "captions", "retrieved", "chosen"])
def test_it_measures_and_leaves_nothing(tiny_synthesis, tmp_path, monkeypatch, kind):
    changes = {
        "kept": {"keep_images": True},
        "captions": {"generator": None},
        "retrieved": {"generator": {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos", "num": 35}}},
        "chosen": {
            "generator": {"type": "RetrievalGenerator", "pool": {"type": "TinyPhotos"}, "heldout_encoder": "search"},
            "other_encoders": SEARCH,
        },
    }[kind]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    settings = {**tiny_synthesis, **changes}
    cost = measure_synthesis(Synthesis(**settings), batches=3)
    assert not list(tmp_path.iterdir()) and cost["seconds"] > 0
    make(settings)
    small = ("heldout", "tokenizer")
    written = sum(len(b) for n, b in files(settings["store"]).items() if not n.startswith(small))
    assert cost["bytes"] == pytest.approx(written, rel=0.5)  # the files of so few rows are mostly heads


def test_it_knows_what_is_there_and_does_not_touch_it(tiny_synthesis, tmp_path):
    make(tiny_synthesis)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert measure_synthesis(Synthesis(**tiny_synthesis)) == {"seconds": 0, "bytes": 0}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_the_plan_counts_shards(tiny_synthesis):
    make(tiny_synthesis, only="text")
    rows = [line.split() for line in describe_plan(Synthesis(**tiny_synthesis).stages()).splitlines()[1:]]
    found = {row[0]: row[1:] for row in rows}
    assert found["text"][:3] == ["3", "3", "0"] and found["images"] == ["3", "0", "3", "40", "images"]
