"""What one rank cannot do ends the others too, wherever they wait for it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from random_store import make_store

TESTS = Path(__file__).resolve().parents[1]
RANKS = """
import sys
rank, meeting, store, fails = int(sys.argv[1]), *sys.argv[2:]
import torch.distributed as dist
import components
from mmengine.registry import init_default_scope
init_default_scope("synthcap_mm")
from synthcap_mm.pairs import Curation, PairFactory
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)

def no_luck(*args, **kwargs):
    raise ValueError("no luck")

if fails == "part":
    if rank == 1:
        from synthcap_mm.store.additions import Parts
        Parts.write = no_luck
    Curation(store, [dict(type="reassign")], part_size=16, device="cpu").run()
elif fails == "table":
    if rank == 0:
        from synthcap_mm.pairs import curation
        curation.add_tables = no_luck
    Curation(store, [dict(type="clip_score")], recall=False, part_size=16, device="cpu").run()
else:
    encoder = components.TinyEncoder
    if rank == 1:
        encoder.__init__ = no_luck
    PairFactory(store, dict(type="TinyCaptions", num=8), dict(type="TinyEncoder"), tokenizer=None).run()
"""


@pytest.mark.parametrize("fails, rank", [("part", 1), ("table", 0), ("encoder", 1)])
def test_the_others_do_not_wait(tmp_path, fails, rank):
    store = str(tmp_path / "store")
    if fails != "encoder":
        make_store(store)
    env = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(one), str(tmp_path / "meeting"), store, fails],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        for one in range(2)
    ]
    try:
        said = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    # torch may abort a process that ends while the group's threads live.
    assert all(p.returncode in (1, -signal.SIGABRT) for p in processes), said
    assert "no luck" in said[rank] and "another rank failed; its own message says why" in said[1 - rank]
