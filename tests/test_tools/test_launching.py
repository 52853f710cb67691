"""How long ranks wait for each other."""

import datetime

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
    launching.init_distributed(Config({"launcher": "pytorch", "env_cfg": {"dist_cfg": dist_cfg}}))
    # MMEngine takes seconds, torch a span.
    told = seen.get("timeout")
    assert (told.total_seconds() if isinstance(told, datetime.timedelta) else told) == configured
