"""tools/synthesize.py and dist_synthesize.sh as a user types them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--cfg-options", "synthesis.captions.num=60", "synthesis.shard_size=16", "synthesis.tokenizer.vocab_size=400"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
ENV["PATH"] = f"{Path(sys.executable).parent}:{ENV['PATH']}"
TOOL = [sys.executable, str(ROOT / "tools" / "synthesize.py"), "synthcap_mini.py"]


def run(folder, *arguments):
    result = subprocess.run(
        [*TOOL, *arguments, *SMALL], cwd=folder, env=ENV, capture_output=True, text=True, timeout=300
    )
    return result.returncode, result.stdout + result.stderr


def test_dry_run_then_a_part_then_a_stage_alone(tmp_path):
    code, said = run(tmp_path, "--dry-run")
    assert code == 0 and "plan for the store data/miniscenes/pairs" in said
    assert "expected on 1 rank(s)" in said and "Nothing was made" in said
    assert not (tmp_path / "data").exists()
    code, said = run(tmp_path, "--limit", "20")
    assert code == 0 and "summary of the store data/miniscenes/pairs_first20" in said
    assert os.listdir(tmp_path / "data" / "miniscenes") == ["pairs_first20"]
    code, said = run(tmp_path, "--only", "refine")
    assert code == 1 and "--only text first" in said and "Traceback" not in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_ends_with_what_to_type(tmp_path, ranks):
    command = [*TOOL, *SMALL] if ranks == 1 else [
        "bash", str(ROOT / "tools" / "dist_synthesize.sh"), "synthcap_mini.py", str(ranks), *SMALL
    ]  # fmt: skip
    command += ["synthesis.captions.num=20000"]
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + 240
    while "plan for" not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the launcher and to all ranks
    assert process.wait(60) == 130, log.read_text()[-3000:]
    said = log.read_text()
    script = "dist_synthesize.sh synthcap_mini.py 2" if ranks == 2 else "synthesize.py synthcap_mini.py"
    assert said.count("stopped. Finished shards are kept") == 1 and script in said.split("type:")[1]
    assert "Traceback" not in said
    assert not list((tmp_path / "data").rglob("*.tmp")) and not list((tmp_path / "data").rglob(".lock"))


@pytest.mark.slow
def test_slurms_variables_are_enough(tmp_path):
    """Two processes as srun starts them, on the CPU, give the store of one."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in "01":
        (tmp_path / "two").mkdir(exist_ok=True)
        slurm = {"SLURM_PROCID": rank, "SLURM_NTASKS": "2", "SLURM_LOCALID": rank}
        env = {**ENV, **slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [*TOOL, "--launcher", "slurm", *SMALL]
        ranks.append(subprocess.Popen(command, cwd=tmp_path / "two", env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    (tmp_path / "one").mkdir()
    assert run(tmp_path / "one")[0] == 0
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.suffix == ".arrow"}
        for n in ("one", "two")
    )
    assert one == two and len(one) > 10
