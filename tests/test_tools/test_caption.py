"""From a checkpoint to an export, and from photos to captions, as one types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(tool, *args, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the mini-world's captioner was trained for a moment."""
    folder = tmp_path_factory.mktemp("trained")
    options = [
        "synthesis.captions.num=60", "synthesis.holdout=0.2", "photo_stores.0.photos.num=6",
        "photo_stores.1.photos.num=6", "train_cfg.max_epochs=1", "model.head.layers=1", "gallery.num=0",
        "test_best=False", "train_dataloader.batch_size=20",
    ]  # fmt: skip
    done = run("train", "synthcap_mini.py", "--cfg-options", *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (checkpoint,) = (folder / "work_dirs" / "synthcap_mini").glob("epoch_*.pth")
    from synthcap_mm.miniscenes.sources import MiniScenesPhotos

    (folder / "photos").mkdir()
    for i in range(5):
        MiniScenesPhotos("test", 5).load(i).save(folder / "photos" / f"a photo {i} é.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"")
    return folder, checkpoint


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_caption_and_export(trained):
    folder, checkpoint = trained
    # The config with what it was trained with, as train.py left it beside the checkpoint.
    config = checkpoint.parent / "synthcap_mini.py"
    done = run("caption", config, checkpoint, "photos", "--out", "out/a.jsonl", "--num-beams", 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "captions: 5 written, 0 found from before, 1 images could not be read" in done.stdout + done.stderr
    found = rows(folder / "out" / "a.jsonl")
    assert sum("caption" in row for row in found) == 5
    assert [r["error"] for r in found if "error" in r] == [
        "the photo photos/broken.jpg does not decode: the file is empty (0 bytes)"
    ]
    done = run("export", config, checkpoint, "export", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "held-out images have the same caption as before" in done.stdout + done.stderr
    (folder / "data").rename(folder / "data gone")
    try:
        done = run("caption", "export", "photos/a*.png", "--out", "out/b.jsonl", "--num-beams", 2, cwd=folder)
        assert done.returncode == 0, done.stderr
    finally:
        (folder / "data gone").rename(folder / "data")
    assert rows(folder / "out" / "b.jsonl") == [row for row in found if "caption" in row]


def test_mistakes_end_with_a_sentence(trained, tmp_path):
    folder, checkpoint = trained
    (tmp_path / "empty").mkdir()
    for args, words in (
        (["synthcap_mini.py", "photos", "--out", "x.jsonl"], "after the config synthcap_mini.py come its checkpoint"),
        (["synthcap_mini.py", "none.pth", "photos", "--out", "x.jsonl"], "no checkpoint none.pth"),
        (["photos", "photos", "--out", "x.jsonl"], "the folder photos is no export of tools/export.py"),
        (["synthcap_mini.py", checkpoint, tmp_path / "empty", "--out", "x.jsonl"], "no photo in"),
        (["synthcap_min.py", checkpoint, "photos", "--out", "x.jsonl"], "did you mean synthcap_mini.py"),
    ):
        done = run("caption", *args, cwd=folder)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = run("export", "synthcap_mini.py", checkpoint, "photos", cwd=folder)
    assert done.returncode == 1 and "photos exists already" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
