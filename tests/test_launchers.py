"""The shell scripts assemble the right command; stand-ins for ``python``, ``srun`` and ``sbatch`` write down what they get."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
STAND_IN = r"""#!/usr/bin/env bash
printf '%s\n' "$@" "TYPED=${SYNTHCAP_COMMAND:-}" "OMP=${OMP_NUM_THREADS:-}" "PP=${PYTHONPATH:-}" "MP=${MASTER_PORT:-}"
"""
#: One line of a file for each job; prints the job's number.
SBATCH = r"""#!/usr/bin/env bash
printf '%s\t' "$@" >> jobs.txt; echo >> jobs.txt; wc -l < jobs.txt
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script of tools/ from another folder; returns its status, the arguments it ended in, and its variables."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, text in {"python": STAND_IN, "srun": STAND_IN, "sbatch": SBATCH}.items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    (tmp_path / "elsewhere").mkdir()

    def run(script: str, *args: str, tools: Path = TOOLS, **env: str):
        env = {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", **env}
        done = subprocess.run(
            ["bash", str(tools / script), *args], cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        variables = dict(line.split("=", 1) for line in lines[-4:] if "=" in line)
        return done.returncode, lines[:-4], {**variables, "stderr": done.stderr}

    return run


STANDALONE = ["--standalone", "--local_addr=127.0.0.1"]


@pytest.mark.parametrize(
    "script, inputs",
    [
        ("train", ["my.py"]),
        ("test", ["my.py", "best.pth"]),
        ("synthesize", ["my.py"]),
        ("encode_images", ["my.py"]),
        ("curate", ["my.py"]),
    ],
)
def test_dist_is_torchrun(launch, script, inputs):
    flags = ["--cfg-options", "a=1", "b='x y'"]
    status, args, variables = launch(f"dist_{script}.sh", *inputs, "2", *flags)
    assert status == 0
    run = ["-m", "synthcap_mm.cli.run_ranks", *STANDALONE, "--nproc_per_node=2"]
    assert args == [*run, f"{TOOLS}/{script}.py", "--launcher", "pytorch", *inputs, *flags]
    # what to type to go on after Ctrl-C
    assert variables["TYPED"] == f"bash {TOOLS}/dist_{script}.sh {' '.join(inputs)} 2 --cfg-options a=1 b=\\'x\\ y\\'"


def test_a_number_alone_is_the_flagship(launch):
    status, args, _ = launch("dist_train.sh", "8", "--amp")
    assert status == 0 and "--nproc_per_node=8" in args
    assert args[-3:] == ["pytorch", "synthcap_coco.py", "--amp"]


def test_port_and_machines(launch):
    _, args, _ = launch("dist_train.sh", "my.py", "2", PORT="1234")
    assert args[2:6] == ["--nnodes=1", "--node_rank=0", "--master_addr=127.0.0.1", "--master_port=1234"]
    _, args, _ = launch("dist_train.sh", "my.py", "8", NNODES="2", NODE_RANK="1", MASTER_ADDR="10.0.0.1")
    assert args[2:6] == ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29500"]


@pytest.mark.parametrize(
    "args",
    [
        ("dist_train.sh",),
        ("dist_train.sh", "my.py"),
        ("dist_train.sh", "my.py", "two"),
        ("dist_train.sh", "my.py", "0"),
        ("dist_test.sh", "my.py", "2"),
        ("dist_curate.sh", "my.py"),
        ("slurm_train.sh", "gpu", "job"),
        ("slurm_synthesize.sh", "gpu", "job"),
    ],
)
def test_wrong_use_says_how(launch, args):
    status, _, variables = launch(*args)
    assert status == 2 and "usage" in variables["stderr"]


def test_environment(launch, tmp_path):
    cores = len(os.sched_getaffinity(0))
    assert launch("dist_train.sh", "my.py", "1")[2]["OMP"] == str(cores)
    assert launch("dist_train.sh", "my.py", str(4 * cores))[2]["OMP"] == "1"
    variables = launch("dist_train.sh", "my.py", "1", OMP_NUM_THREADS="5", PYTHONPATH="mine")[2]
    assert (variables["OMP"], variables["PP"]) == ("5", f"{TOOLS.parent}:mine")
    installed = tmp_path / "site" / "synthcap_mm" / ".mim" / "tools"
    shutil.copytree(TOOLS, installed, ignore=shutil.ignore_patterns("__pycache__"))
    assert launch("dist_train.sh", "my.py", "1", tools=installed)[2]["PP"] == ""


def test_slurm_trains(launch):
    _, args, variables = launch("slurm_train.sh", "gpu", "caption", "my.py", "--amp", GPUS="4", SRUN_ARGS="--mem 8G")
    wanted = ["--partition=gpu", "--job-name=caption", "--gres=gpu:4", "--ntasks=4", "--ntasks-per-node=4"]
    assert args[:5] == wanted
    assert args[5:9] == ["--cpus-per-task=5", "--kill-on-bad-exit=1", "--mem", "8G"]
    assert args[9:] == ["python", "-u", f"{TOOLS}/train.py", "--launcher", "slurm", "my.py", "--amp"]
    assert 20000 <= int(variables["MP"]) < 40000
    assert variables["TYPED"] == f"bash {TOOLS}/slurm_train.sh gpu caption my.py --amp"
    _, args, variables = launch("slurm_train.sh", "gpu", "caption", "my.py", "out", "--amp", GPUS="16", PORT="999")
    assert {"--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"} <= set(args)
    assert args[-3:] == ["--work-dir", "out", "--amp"]
    assert variables["MP"] == "999"


def test_slurm_synthesizes_in_arrays(launch, tmp_path):
    status, _, variables = launch(
        "slurm_synthesize.sh", "gpu", "draw", "my config.py", "--limit", "9", TASKS="3", SBATCH_ARGS="--mem 8G"
    )
    assert status == 0, variables["stderr"]
    jobs = [line.split("\t") for line in (tmp_path / "elsewhere" / "jobs.txt").read_text().splitlines()]
    tool = f"python -u {TOOLS}/synthesize.py my\\ config.py --limit 9"
    share = "--task $SLURM_ARRAY_TASK_ID/3"
    for job, name, command, dependency in zip(
        jobs, ("text", "images", "rest"),
        (f"{tool} --only text {share}", f"{tool} --only images {share}", tool),
        (None, "--dependency=afterany:1", "--dependency=afterany:2"),
    ):  # fmt: skip
        assert {"--partition=gpu", f"--job-name=draw-{name}", "--gres=gpu:1", "--mem", "8G"} <= set(job)
        assert job[job.index("--wrap") + 1] == command
        assert ("--array=0-2" in job) == (name != "rest")
        assert dependency is None or dependency in job
    assert len(jobs) == 3
