"""Scripts of benchmarks/ that measure: they run, in small, and say what they promise to say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(name, *options):
    return run(sys.executable, f"benchmarks/{name}.py", *options)


def test_factory():
    said = script("factory", "--images", 4, "--batch", 2, "--steps", 1, "--width", 4, "--repeats", 1, "--keep-images")
    figures = dict(re.findall(r"^(\S.*?)  +([\d.]+) ", said, re.M))
    assert float(figures["generator alone"]) > float(figures["bare loop, in sequence"]) > 0
    assert float(figures["factory, keeping pictures"]) > 0 and float(figures["factory / loop"]) > 0
    assert "(wanted: at least 0.95)" in said and "times faster (wanted: at least 20)" in said


def test_inspection(tmp_path):
    said = script("inspection", "--rows", 3000, "--dim", 16, "--work-dir", tmp_path)
    assert re.fullmatch(r"3,000 pairs of 16 dimensions: [\d.]+ s, peak [\d.]+ GB, page [\d.]+ MB\n", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killing(tmp_path):
    said = run("bash", "benchmarks/kill_synthesize.sh", "--runs", 1, "--ranks", 1, "--captions", 64,
               "--folder", tmp_path)  # fmt: skip
    assert "1 of 1 stores byte-identical" in said and "1 of 1 without a finished shard made again" in said
    assert said.endswith("nothing wrong\n")


def test_captioning():
    said = script("captioning", "--photos", 8, "--repeats", 1, "--memory-photos", 64)
    rates = dict(re.findall(r"^  (one at a time, no cache|batch \d+) +([\d.]+) ", said, re.M))
    assert len(rates) == 4 and all(float(rate) > 0 for rate in rates.values())
    assert "8 of 8 captions are the same" in said  # as transformers'
    assert set(re.findall(r"^  (\w+) +[\d.]+ +[\d.]+%$", said, re.M)) == {"decode", "encode", "tags", "text"}
    assert re.search(r"memory over 64 images, MB: (\d+ ){9}\d+", said)


@pytest.mark.slow
def test_training_step(tmp_path):
    said = script("training_step", "--tiny", "--batches", 2, 8, "--rows", 300, "--steps", 2, "--warm-up", 1,
                  "--json", tmp_path / "steps.json")  # fmt: skip
    report = json.loads((tmp_path / "steps.json").read_text())
    assert report["memory_rows"] == 300 and report["tiny"] and report["dtype"] == "bfloat16"
    assert [run["batch"] for run in report["runs"]] == [2, 8]
    for run in report["runs"]:
        assert run["captions_per_second"] == pytest.approx(run["batch"] / run["seconds"]) and run["peak_bytes"] > 1e8
        assert not run["compile"] and re.search(
            rf"^ +{run['batch']}    False  +[\d.]+  +[\d.]+  +[\d.]+  [\d.]+$", said, re.M
        )
    assert "TINY" in said
