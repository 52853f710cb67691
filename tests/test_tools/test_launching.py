"""The group of ranks: how long they wait for each other, and how they leave."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import mmengine.dist
import pytest
import torch
from mmengine.config import Config

from synthcap_mm.apis import launching

HOUR = 3600


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.parametrize("configured", [HOUR, 48 * HOUR, None])
def test_the_group_waits_as_long_as_it_is_told(monkeypatch, gpus, configured):
    seen = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: seen.update(kwargs))
    monkeypatch.setattr(mmengine.dist, "init_dist", lambda launcher, **kwargs: seen.update(kwargs))
    dist_cfg = {"backend": "nccl", **({"timeout": configured} if configured else {})}
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with launching.process_group(Config({"launcher": "pytorch", "env_cfg": {"dist_cfg": dist_cfg}})):
        pass
    # MMEngine takes seconds, torch a span.
    told = seen.get("timeout")
    assert (told.total_seconds() if isinstance(told, datetime.timedelta) else told) == configured


LEAVES = """
import sys
from pathlib import Path
import torch
from mmengine.config import Config
from synthcap_mm.apis.launching import process_group

def threads():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count("pt_gloo_runloop")

def train():
    from torch.distributed.fsdp import sharded_grad_scaler
    from torch.distributed.optim import ZeroRedundancyOptimizer
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    model.itself = [model]  # as a runner and its hooks: in a circle
    torch.distributed.all_gather_object([None], "said")
    print(threads() > 0)

try:
    with process_group(Config({"launcher": "pytorch"})):
        train()
        if sys.argv[1:]:
            raise KeyError("as it fails")
except KeyError:
    print(torch.distributed.is_initialized())
else:
    print(threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are read from /proc")
@pytest.mark.parametrize("fails, said", [([], ["True", "0"]), (["fails"], ["True", "True"])])
def test_no_thread_of_the_group_lives_on_into_the_interpreters_end(fails, said):
    """One that does may abort the process: it lets go of tensors. After a failure nobody waits for other ranks."""
    env = {
        **os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "CUDA_VISIBLE_DEVICES": "-1", "RANK": "0",
        "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", LEAVES, *fails], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == said
