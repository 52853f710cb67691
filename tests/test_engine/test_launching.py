"""The group of ranks: how long they wait for each other, and how they leave."""

import datetime
import sys
from pathlib import Path

import mmengine.dist
import pytest
import torch
from command_line import run_process
from mmengine.config import Config

from synthcap_mm.engine import launching

HOUR = 3600


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.parametrize("configured", [HOUR, 48 * HOUR, None])
def test_the_group_waits_as_long_as_the_config_says(monkeypatch, gpus, configured):
    seen = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: seen.update(kwargs))
    monkeypatch.setattr(mmengine.dist, "init_dist", lambda launcher, **kwargs: seen.update(kwargs))
    dist_cfg = {"backend": "nccl", **({"timeout": configured} if configured else {})}
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with launching.process_group(Config({"launcher": "pytorch", "env_cfg": {"dist_cfg": dist_cfg}})):
        pass
    # MMEngine takes seconds, torch a span.
    found = seen.get("timeout")
    assert (found.total_seconds() if isinstance(found, datetime.timedelta) else found) == configured


LEAVES = """
import sys
import time
from pathlib import Path
import torch
from command_line import run_process
from mmengine.config import Config
from synthcap_mm.engine.launching import process_group

fails = bool(sys.argv[1:])

def threads():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count("pt_gloo_runloop")

def train():
    from torch.distributed.fsdp import sharded_grad_scaler
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    model.itself = [model]  # as a runner and its hooks: in a circle
    # The first rank's thread is not through with the last collective, and needs Python's lock for it.
    if torch.distributed.get_rank():
        time.sleep(1)
    reduced = torch.distributed.all_reduce(torch.ones(3), async_op=True).get_future()
    if not fails:
        reduced.add_done_callback(lambda future: time.sleep(0.5))
    reduced.wait()  # not for the callback
    return threads() > 0

try:
    with process_group(Config({"launcher": "pytorch"})):
        there = train()
        if fails:
            raise KeyError("as it fails")
except KeyError:
    sys.stdout.write(f"{there} {torch.distributed.is_initialized()}\\n")
else:
    sys.stdout.write(f"{there} {threads()}\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are read from /proc")
@pytest.mark.parametrize("fails, said", [([], "True 0"), (["fails"], "True True")])
def test_no_thread_of_the_group_lives_on_into_the_interpreters_end(tmp_path, fails, said):
    """One that does may abort the process: it lets go of tensors. Waiting for it, nobody holds what it needs for that; and
    after a failure nobody waits for other ranks."""
    (tmp_path / "leaves.py").write_text(LEAVES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1",
               "--nproc_per_node=2", tmp_path / "leaves.py", *fails]  # fmt: skip
    lines = run_process(tmp_path, *command).splitlines()
    assert [line for line in lines if line.startswith(("True", "False"))] == [said] * 2
