"""A training killed by SIGKILL and resumed is, to the bit, the one that was left alone."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runner import equal

HERE = Path(__file__).resolve().parent
#: Where a run is killed, and its resumption too.
CHAINS = [("save", "best"), ("validation", "epoch")]
#: The epoch whose checkpoint a resumption after a kill at each place goes on from.
RESUMES_FROM = {"save": 1, "best": 2, "validation": 2, "epoch": 2}


def train(folder, jobs):
    """Exit codes of each job's ranks."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    paths = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": paths}
    subprocess.run(
        [sys.executable, str(HERE / "killed.py"), str(folder / "jobs.json")], env=env, check=True, timeout=200
    )
    return json.loads((folder / "codes.json").read_text())


def checkpoints(folder):
    return {p.name: torch.load(p, weights_only=False) for p in folder.glob("*.pth")}


def figures(folder, rank):
    return json.loads((folder / f"figures{rank}.json").read_text())


@pytest.mark.parametrize(
    "workers, ranks, chains",
    [
        (0, 1, [("save",)]),
        pytest.param(2, 1, CHAINS, marks=pytest.mark.slow),
        pytest.param(2, 2, CHAINS, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_the_same_run(tiny_model, tiny_stores, tmp_path, workers, ranks, chains):
    tiny_model["head"].update(dropout=0.2, generation={"num_beams": 2})
    tiny_model["data_preprocessor"]["prompt"].update(drop=0.4, drop_all=0.2)
    tiny_model["data_preprocessor"]["max_length"] = 10
    common = {"model": tiny_model, "stores": tiny_stores, "workers": workers, "ranks": ranks}
    jobs = [{**common, "work_dir": str(tmp_path / "whole"), "at": None, "resume": False}]
    for places in chains:
        for number, place in enumerate((*places, None)):
            jobs.append({**common, "work_dir": str(tmp_path / "-".join(places)), "at": place, "resume": number > 0})
    codes = train(tmp_path, jobs)
    said = {f.relative_to(tmp_path): f.read_text()[-3000:] for f in tmp_path.glob("*/said*.txt")}
    killed, ended = [-signal.SIGKILL] * ranks, [0] * ranks
    assert codes == [ended] + [code for chain in chains for code in [killed] * len(chain) + [ended]], said
    whole = checkpoints(tmp_path / "whole")
    assert whole.keys() == {"epoch_2.pth", "epoch_3.pth", "best_score_epoch_2.pth"}
    for places in chains:
        epochs = tuple(RESUMES_FROM[place] for place in places)
        folder = tmp_path / "-".join(places)
        loaded = re.findall(r"Loads checkpoint .*/epoch_(\d)\.pth", (folder / "said0.txt").read_text())
        assert tuple(map(int, loaded)) == epochs
        resumed = checkpoints(folder)
        assert whole.keys() == resumed.keys(), places  # the best epoch's name among them
        for name in whole:
            for part in ("state_dict", "optimizer", "param_schedulers"):  # the best has only the first
                assert equal(whole[name].get(part), resumed[name].get(part)), (places, name, part)
        for rank in range(ranks):
            one, other = figures(tmp_path / "whole", rank), figures(folder, rank)
            first = epochs[-1] * len(one["losses"]) // 3
            # Each loss with the captions it is of; and each score, the one that was due first among them.
            assert other["losses"] == {i: loss for i, loss in one["losses"].items() if int(i) >= first}, places
            assert other["scores"] == {e: s for e, s in one["scores"].items() if int(e) >= epochs[-1]}, places
            assert Path(other["best"]).name == Path(one["best"]).name
        assert not list(folder.glob(".*")), places  # nor does half a file stay for good
