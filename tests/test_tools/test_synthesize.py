"""synthesize as a user types it."""

import os
import socket
import subprocess
import sys

import pytest
from command_line import ROOT, run_command

SMALL = ["--cfg-options", "synthesis.captions.num=60", "synthesis.shard_size=16", "synthesis.tokenizer.vocab_size=400"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}


def test_dry_run_then_a_part_then_a_stage_alone(tmp_path):
    def run(*arguments, status=0):
        return run_command(tmp_path, "synthesize", "synthcap_mini.py", *arguments, *SMALL, status=status)

    said = run("--dry-run")
    assert "expected on 1 rank(s)" in said and not (tmp_path / "data").exists()
    run("--limit", "20")
    assert os.listdir(tmp_path / "data" / "miniscenes") == ["pairs_first20"]
    assert "--only text" in run("--only", "refine", status=1)


@pytest.mark.slow
def test_slurms_variables_are_enough(tmp_path):
    """Two processes as srun starts them, on the CPU, give the store of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in "01":
        (tmp_path / "two").mkdir(exist_ok=True)
        slurm = {"SLURM_PROCID": rank, "SLURM_NTASKS": "2", "SLURM_LOCALID": rank}
        env = {**ENV, **slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [
            sys.executable,
            str(ROOT / "tools" / "synthesize.py"),
            "synthcap_mini.py",
            "--launcher",
            "slurm",
            *SMALL,
        ]
        ranks.append(subprocess.Popen(command, cwd=tmp_path / "two", env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    (tmp_path / "one").mkdir()
    run_command(tmp_path / "one", "synthesize", "synthcap_mini.py", *SMALL)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.suffix == ".arrow"}
        for n in ("one", "two")
    )
    assert one == two and len(one) > 10
