"""The shell scripts assemble the right command; stand-ins for ``python`` and ``srun`` write down what they get."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
STAND_IN = r"""#!/usr/bin/env bash
printf '%s\n' "$@" "TYPED=${SYNTHCAP_COMMAND:-}" "OMP=${OMP_NUM_THREADS:-}" "PP=${PYTHONPATH:-}" "MP=${MASTER_PORT:-}"
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script of tools/ from another folder; returns its status, the arguments it ended in, and its variables."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in ("python", "srun"):
        (bin_dir / name).write_text(STAND_IN)
        (bin_dir / name).chmod(0o755)
    (tmp_path / "elsewhere").mkdir()

    def run(script: str, *args: str, tools: Path = TOOLS, **env: str):
        env = {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}", **env}
        done = subprocess.run(
            ["bash", str(tools / script), *args], cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        variables = dict(line.split("=", 1) for line in lines[-4:])
        return done.returncode, lines[:-4], {**variables, "stderr": done.stderr}

    return run


def launch_fails(*args: str, **env: str) -> str:
    """What a script that refuses writes to stderr."""
    command = ["bash", str(TOOLS / args[0]), *args[1:]]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
    return done.stderr


def torchrun(*options: str, processes: int) -> list[str]:
    return ["-m", "synthcap_mm.apis.run_ranks", *options, f"--nproc_per_node={processes}"]


STANDALONE = ("--standalone", "--local_addr=127.0.0.1")


@pytest.mark.parametrize("script", sorted(path.name for path in TOOLS.glob("*.sh")))
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(TOOLS / script)], check=True)


def test_train(launch):
    status, args, _ = launch("dist_train.sh", "my.py", "2", "--resume", "--cfg-options", "a=1", "b='x y'")
    assert status == 0
    tool = [f"{TOOLS}/train.py", "--launcher", "pytorch"]
    flags = ["my.py", "--resume", "--cfg-options", "a=1", "b='x y'"]
    assert args == [*torchrun(*STANDALONE, processes=2), *tool, *flags]


def test_a_number_alone_is_the_flagship(launch):
    status, args, _ = launch("dist_train.sh", "8", "--amp")
    assert status == 0
    flagship = TOOLS.parent / "configs" / "synthcap_coco.py"
    assert flagship.is_file()
    assert args[-5:] == [f"{TOOLS}/train.py", "--launcher", "pytorch", str(flagship), "--amp"]
    assert "--nproc_per_node=8" in args


def test_test_and_synthesize(launch):
    _, args, _ = launch("dist_test.sh", "my.py", "best.pth", "3", "--tta")
    assert args[-6:] == [f"{TOOLS}/test.py", "--launcher", "pytorch", "my.py", "best.pth", "--tta"]
    assert "--nproc_per_node=3" in args
    for name in ("synthesize", "curate"):
        _, args, variables = launch(f"dist_{name}.sh", "my.py", "4", "--cfg-options", "a='x y'")
        assert args[-6:] == [f"{TOOLS}/{name}.py", "--launcher", "pytorch", "my.py", "--cfg-options", "a='x y'"]
        assert "--nproc_per_node=4" in args
        # what to type to go on after Ctrl-C
        assert variables["TYPED"] == f"bash {TOOLS}/dist_{name}.sh my.py 4 --cfg-options a=\\'x\\ y\\'"


def test_port_and_machines(launch):
    _, args, _ = launch("dist_train.sh", "my.py", "2", PORT="1234")
    alone = ("--nnodes=1", "--node_rank=0", "--master_addr=127.0.0.1", "--master_port=1234")
    assert args[:7] == torchrun(*alone, processes=2)
    env = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    _, args, _ = launch("dist_train.sh", "my.py", "8", **env)
    several = ("--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29500")
    assert args[:7] == torchrun(*several, processes=8)
    for missing in ("NODE_RANK", "MASTER_ADDR"):
        without = {name: value for name, value in env.items() if name != missing}
        assert missing in launch_fails("dist_train.sh", "my.py", "8", **without)


@pytest.mark.parametrize(
    "args",
    [
        ("dist_train.sh",),
        ("dist_train.sh", "my.py"),
        ("dist_train.sh", "my.py", "two"),
        ("dist_train.sh", "my.py", "0"),
        ("dist_test.sh", "my.py", "2"),
        ("dist_synthesize.sh", "my.py"),
        ("dist_curate.sh", "my.py"),
        ("launch.sh", "train.py", "dist_train.sh", "CONFIG", "my.py"),
        ("slurm_train.sh", "gpu", "job"),
        ("slurm_synthesize.sh", "gpu", "job"),
    ],
)
def test_wrong_use_says_how(args):
    message = launch_fails(*args)
    assert "usage" in message or "positive integer" in message


def test_environment(launch):
    cores = len(os.sched_getaffinity(0))
    _, _, variables = launch("dist_train.sh", "my.py", "1")
    assert variables["OMP"] == str(cores)
    _, _, variables = launch("dist_train.sh", "my.py", str(4 * cores))
    assert variables["OMP"] == "1"
    _, _, variables = launch("dist_train.sh", "my.py", "1", OMP_NUM_THREADS="5", PYTHONPATH="mine")
    assert variables["OMP"] == "5"
    assert variables["PP"] == f"{TOOLS.parent}:mine"


def test_installed_tools_leave_pythonpath_alone(launch, tmp_path):
    tools = tmp_path / "site" / "synthcap_mm" / ".mim" / "tools"
    shutil.copytree(TOOLS, tools, ignore=shutil.ignore_patterns("__pycache__"))
    _, args, variables = launch("dist_train.sh", "8", tools=tools)
    assert args[-1] == str(tools.parent / "configs" / "synthcap_coco.py")
    assert variables["PP"] == ""


def test_slurm(launch):
    _, args, variables = launch("slurm_train.sh", "gpu", "caption", "my.py", "--amp", GPUS="4", SRUN_ARGS="--mem 8G")
    wanted = ["--partition=gpu", "--job-name=caption", "--gres=gpu:4", "--ntasks=4", "--ntasks-per-node=4"]
    assert args[:5] == wanted
    assert args[5:9] == ["--cpus-per-task=5", "--kill-on-bad-exit=1", "--mem", "8G"]
    assert args[9:] == ["python", "-u", f"{TOOLS}/train.py", "--launcher", "slurm", "my.py", "--amp"]
    assert 20000 <= int(variables["MP"]) < 40000
    _, args, variables = launch("slurm_train.sh", "gpu", "caption", "my.py", "out", "--amp", GPUS="16", PORT="999")
    assert {"--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8"} <= set(args)
    assert args[-3:] == ["--work-dir", "out", "--amp"]
    assert variables["MP"] == "999"
    _, args, variables = launch("slurm_synthesize.sh", "gpu", "draw", "my.py", "--limit", "9")
    assert {"--gres=gpu:8", "--ntasks=8", "--job-name=draw"} <= set(args)
    assert args[-6:] == [f"{TOOLS}/synthesize.py", "--launcher", "slurm", "my.py", "--limit", "9"]
    assert variables["TYPED"] == f"bash {TOOLS}/slurm_synthesize.sh gpu draw my.py --limit 9"
