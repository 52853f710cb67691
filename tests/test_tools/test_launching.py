"""How long ranks wait for each other."""

import datetime

import mmengine.dist
import pytest
import torch
from mmengine.config import Config

from synthcap_mm.apis import launching

HOUR = 3600


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.parametrize(
    "configured, asked, waited",
    [(HOUR, None, HOUR), (HOUR, launching.STORE_TIMEOUT, 24 * HOUR), (48 * HOUR, 24 * HOUR, 48 * HOUR), (None, None, None)],
)  # fmt: skip
def test_the_group_waits_as_long_as_it_is_told(monkeypatch, gpus, configured, asked, waited):
    seen = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: seen.update(kwargs))
    monkeypatch.setattr(mmengine.dist, "init_dist", lambda launcher, **kwargs: seen.update(kwargs))
    dist_cfg = {"backend": "nccl", **({"timeout": configured} if configured else {})}
    launching.init_distributed(Config({"launcher": "pytorch", "env_cfg": {"dist_cfg": dist_cfg}}), timeout=asked)
    # MMEngine takes seconds, torch a span.
    told = seen.get("timeout")
    assert (told.total_seconds() if isinstance(told, datetime.timedelta) else told) == waited


def test_store_tools_wait_for_a_day(monkeypatch):
    waits = []
    monkeypatch.setattr("sys.argv", ["synthesize.py", "synthcap_mini.py"])
    monkeypatch.setattr(launching, "init_distributed", lambda cfg, timeout=None: waits.append(timeout))
    monkeypatch.setattr("synthcap_mm.apis.workflow.synthesize", lambda cfg: None)
    launching.run_store_tool("synthesize", "")
    assert waits == [24 * HOUR]
