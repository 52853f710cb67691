"""The commands that a user types, on the mini-world made small, in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "synthesis.captions.num=80", "synthesis.holdout=0.2", "synthesis.shard_size=32", "synthesis.tokenizer.vocab_size=400",
    "photo_stores.0.photos.num=9", "photo_stores.1.photos.num=3", "train_cfg.max_epochs=2", "model.head.layers=1",
    "model.head.generation.num_beams=2", "train_dataloader.batch_size=16", "test_dataloader.batch_size=4", "gallery.num=3",
]  # fmt: skip


def run(folder, *command, ok=True):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = [str(c) for c in command]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    text = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, text
    return text


def tool(folder, name, *arguments, ok=True):
    return run(folder, sys.executable, ROOT / "tools" / f"{name}.py", *arguments, ok=ok)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the mini-world's small brother was trained, and what was said."""
    folder = tmp_path_factory.mktemp("trained")
    said = tool(folder, "train", ROOT / "configs" / "synthcap_mini.py", "--work-dir", "work", "--cfg-options", *SMALL)
    return folder, said


def metrics(folder):
    return json.loads((folder / "test_metrics.json").read_text())["metrics"]


def test_train_makes_the_stores_trains_tests_and_shows(trained):
    folder, said = trained
    assert (folder / "data" / "miniscenes" / "pairs" / "manifest.json").is_file()
    assert said.count("caption of train-") == 8  # four held-out captions, two epochs
    assert set(metrics(folder / "work")) >= {"CIDEr", "BLEU-4", "ROUGE_L"}
    assert (folder / "work" / "gallery.png").is_file() and f"gallery: {folder / 'work' / 'gallery.png'}" in said
    assert re.search(r"CIDEr +\d+\.\d\d", said)


def test_test_repeats_the_figures(trained):
    folder, _ = trained
    best = next((folder / "work").glob("best_CIDEr_epoch_*.pth"))
    tool(folder, "test", ROOT / "configs" / "synthcap_mini.py", best, "--work-dir", "again", "--cfg-options", *SMALL)
    assert metrics(folder / "again") == metrics(folder / "work")


def test_two_processes_test_as_one(trained):
    folder, _ = trained
    best = next((folder / "work").glob("best_CIDEr_epoch_*.pth"))
    run(folder, "bash", ROOT / "tools" / "dist_test.sh", ROOT / "configs" / "synthcap_mini.py", best, 2,
        "--work-dir", "two", "--cfg-options", *SMALL)  # fmt: skip
    assert metrics(folder / "two") == pytest.approx(metrics(folder / "work"))


def test_two_processes_train_without_a_gpu(trained):
    folder, _ = trained
    said = run(folder, "bash", ROOT / "tools" / "dist_train.sh", ROOT / "configs" / "synthcap_mini.py", 2,
               "--work-dir", "dist", "--cfg-options", *SMALL)  # fmt: skip
    assert "GPU number: 2" in said or "MMDistributedDataParallel" in said
    assert "CIDEr" in metrics(folder / "dist")
    # 64 training captions in 2 processes of 16: half the steps of the single run.
    assert re.search(r"\[2\]\[2/2\]", said) or "Epoch(train) [2]" in said


def test_flags(trained):
    folder, _ = trained
    options = ["--cfg-options", *SMALL, "test_best=False", "default_hooks.logger.interval=1"]
    said = tool(
        folder,
        "train",
        "synthcap_mini.py",
        "--work-dir",
        "flags",
        "--amp",
        "--no-validate",
        "--auto-scale-lr",
        *options,
    )
    assert "caption of train-" not in said and "Scaling the original LR by" in said
    assert "AutocastOptimWrapper" in said and "dtype='bfloat16'" in said
    # A kill can leave the pointer to the last checkpoint cut short.
    (folder / "flags" / "last_checkpoint").write_text("")
    resume = ["--work-dir", "flags", "--resume", "--no-validate", *options, "train_cfg.max_epochs=3"]
    again = tool(folder, "train", "synthcap_mini.py", *resume)
    assert "resumed epoch: 2" in again
    assert "Epoch(train) [1]" not in again and "Epoch(train) [3]" in again
    fresh = ["--work-dir", "fresh", "--resume", "--no-validate", *options, "train_cfg.max_epochs=1"]
    assert "nothing to resume in fresh" in tool(folder, "train", "synthcap_mini.py", *fresh)


def test_missing_things_are_named_with_the_command(tmp_path):
    said = tool(tmp_path, "train", "synthcap_mini.py", "--cfg-options", "auto_synthesize=False", ok=False)
    assert "tools/synthesize.py" in said and "data/miniscenes/pairs" in said and "Traceback" not in said
    said = tool(tmp_path, "test", "synthcap_mini.py", "nothing.pth", ok=False)
    assert "no checkpoint at nothing.pth" in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["train", "test", "synthesize", "encode_images"])
def test_help_is_worth_reading(tmp_path, name):
    said = tool(tmp_path, name, "--help")
    assert "--cfg-options" in said and "--launcher" in said and len(said) > 600
