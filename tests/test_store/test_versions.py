"""Versions of libraries: recorded and told, no reason to refuse a store."""

import json

import numpy as np

from synthcap_mm.store import StoreWriter
from synthcap_mm.store.schema import captions_table
from synthcap_mm.store.versions import library_versions, settings_digest, version_changes, without_versions

ENCODER = {"name": "A", "image": [1.0, 0.0], "text": [0.0, 1.0]}


def header(**changes):
    return {"embed_dim": 4, "encoder": ENCODER, **changes}


def rows(start):
    ids = [str(start + i) for i in range(4)]
    return captions_table(ids, ids, [None] * 4, [False] * 4, np.eye(4, dtype=np.float32))


def test_what_is_installed_is_named():
    versions = library_versions()
    assert {"python", "torch", "open_clip", "transformers", "numpy", "pillow", "pyarrow"} <= set(versions)
    assert all(isinstance(v, str) and "/" not in v for v in versions.values())


def test_settings_without_versions():
    settings = {"type": "X", "steps": 3, "torch": "2.11", "inner": [{"mmdet": "3", "a": 1}]}
    assert without_versions(settings) == {"type": "X", "steps": 3, "inner": [{"a": 1}]}
    assert settings_digest(settings) == settings_digest({**settings, "torch": "3.0"})
    assert settings_digest(settings) != settings_digest({**settings, "steps": 4})
    assert settings_digest(None) is None


def test_changes_are_told_one_by_one():
    assert version_changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b 2 → 3", "c absent → 4"]


def test_another_version_is_recorded_and_does_not_refuse_the_store(tmp_path):

    old, new = {"torch": "1"}, {"torch": "2"}
    settings = {"steps": 20, "torch": "1"}
    writer = StoreWriter(tmp_path, header(generator=settings), old)
    writer.begin("today", "1.0")
    writer.write("captions", 0, rows(0))
    again = StoreWriter(tmp_path, header(generator={**settings, "torch": "2"}), new)
    assert again.changed_versions == ["torch 1 → 2"]
    again.begin("later", "1.0")
    assert again.write("captions", 1, rows(4))["made_with"] == 1
    again.finish({"captions": 2})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["libraries"] == [old, new]
    assert [r["made_with"] for r in manifest["tables"]["captions"]["shards"]] == [0, 1]
    assert StoreWriter(tmp_path, header(generator=settings), old).changed_versions == ["torch 2 → 1"]
