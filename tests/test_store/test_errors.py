"""A full disk, told as what it is."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from synthcap_mm.store import StoreError, StoreWriter
from synthcap_mm.store.errors import explain_os_error, nearest_folder
from synthcap_mm.store.schema import captions_table

ROOT = Path(__file__).resolve().parents[2]

ENCODER = {"name": "A", "image": [1.0, 0.0], "text": [0.0, 1.0]}


def header(**changes):
    return {"embed_dim": 4, "encoder": ENCODER, **changes}


def rows(start):
    ids = [str(start + i) for i in range(4)]
    return captions_table(ids, ids, [None] * 4, [False] * 4, np.eye(4, dtype=np.float32))


# A small disk of its own: a tmpfs in a mount namespace that needs no rights.
ON_A_SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
disk, other = Path(sys.argv[1]), sys.argv[2]
import components
from mmengine.registry import init_default_scope
init_default_scope("synthcap_mm")
from synthcap_mm.pairs import PairFactory
from synthcap_mm.store import StoreError, Store
from synthcap_mm.store.shards import shard_problem
def run(store):
    return PairFactory(store=store, captions={"type": "TinyCaptions", "num": 64}, encoder={"type": "TinyEncoder"},
        generator={"type": "TinyPainter", "size": 48}, tag_provider={"type": "TinyTagger"}, tokenizer=None, shard_size=16,
        image_batch=4, keep_images=True).run()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], check=True)
store = disk / "store"
said = ""
try:
    run(str(store))
except StoreError as error:
    said = str(error)
left = [p.name for p in store.rglob("*.tmp")]
records = [json.loads(p.read_text()) for p in store.rglob("[0-9]*.json")]
bad = [r["file"] for r in records if shard_problem(store, r, full=True)]
kept = len(records)
subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
counts = run(str(store))
run(other)
read = lambda s: {p.relative_to(s).as_posix(): p.read_bytes() for p in sorted(Path(s).rglob("*")) if p.suffix in (".arrow", ".tar")}
print(json.dumps({"said": said, "left": left, "bad": bad, "kept": kept, "counts": counts, "equal": read(store) == read(other)}))
"""


def test_a_disk_that_fills_in_the_middle_of_a_shard(tmp_path):
    (tmp_path / "disk").mkdir()
    if subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path / "disk")], capture_output=True
    ).returncode:
        pytest.skip("NO SMALL DISK: this machine lets no one mount a tmpfs in a namespace")
    command = ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "disk"), str(tmp_path / "other")]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert "the disk is full: cannot write images_tar/0000" in found["said"]
    assert "Finished shards are kept" in found["said"] and "run the same command again" in found["said"]
    assert found["left"] == [] and found["bad"] == [] and found["kept"] > 4
    assert found["counts"]["shards_reused"] >= 4 and found["equal"]


@pytest.mark.parametrize("number, told", [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "no permission")])
def test_what_the_system_says_of_a_shard(tmp_path, monkeypatch, number, told):

    from synthcap_mm.store import shards

    def fail(handle):
        raise OSError(number, os.strerror(number))

    writer = StoreWriter(tmp_path, header())
    writer.begin("today", "1.0")
    monkeypatch.setattr(shards.os, "fsync", fail)
    with pytest.raises(StoreError, match=f"{told}.*captions/00000.arrow"):
        writer.write("captions", 0, rows(0))
    assert writer.record("captions", 0) is None and not list((tmp_path / "captions").iterdir())


def test_other_faults_stay_what_they_are(tmp_path):
    assert "cannot write in the store's folder" in str(explain_os_error(OSError(errno.EIO, "I/O error"), tmp_path))
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
