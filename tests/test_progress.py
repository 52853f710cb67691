"""One bar over all ranks, and waiting that no time limit ends."""

import json
import subprocess
import sys

import pytest

from synthcap_mm.progress import Progress, duration


@pytest.mark.parametrize(
    "seconds, told", [(0, "0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (3600, "1 h 00 min"), (123456, "34 h 17 min")]
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def test_alone(monkeypatch):
    from synthcap_mm.pairs import progress

    said = []
    monkeypatch.setattr(progress, "print_log", lambda message, **kwargs: said.append(message))
    monkeypatch.setattr(progress, "_LINE", 0.0)
    with Progress("images", 10, 4, "images") as bar:
        bar.update(2)
        bar.update(4)
        assert bar.made == 6
    assert said[0].startswith("images: 6 of 10, ") and "time left" in said[0]
    assert said[-1].startswith("images: 6 made, 4 reused, of 10, in")


RANKS = """
import datetime, json, sys, time
import torch.distributed as dist
rank, meeting, fails = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "fails"
from synthcap_mm.progress import Progress, meet
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=2))
seen = []
meet()
with Progress("images", 20, 0, "images") as bar:
    bar.update(3 + rank)
    if rank == 1:
        if fails:
            raise ValueError("no luck")
        time.sleep(5)
        bar.update(10)
print(json.dumps(bar.made))
dist.barrier()
dist.destroy_process_group()
"""


def ranks(tmp_path, how):
    command = [sys.executable, "-c", RANKS]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting"), how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [(*p.communicate(timeout=90), p.returncode) for p in processes]
    finally:
        for p in processes:
            p.kill()


def test_a_rank_that_takes_longer_than_the_groups_time_limit_is_waited_for_and_counted(tmp_path):
    found = ranks(tmp_path, "works")
    assert [code for _, _, code in found] == [0, 0], found[0][1][-1500:] + found[1][1][-1500:]
    assert json.loads(found[0][0].splitlines()[-1]) == 17  # 3 + 4 + 10, on the main rank


def test_a_rank_that_fails_is_not_waited_for(tmp_path):
    found = ranks(tmp_path, "fails")
    assert "another rank failed" in found[0][1] and "no luck" in found[1][1]
