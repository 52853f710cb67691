"""Curating and looking, as a user types it, on the mini-world made small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = [{str(ROOT / "configs" / "synthcap_mini.py")!r}]
synthesis = dict(captions=dict(num=80), holdout=0.2, shard_size=32, tokenizer=dict(vocab_size=400))
photo_stores = [dict(store="data/photos", photos=dict(type="MiniScenesPhotos", split="val", num=6))]
curation = dict(steps=[dict(type="merge_duplicates", min_similarity=0.99), dict(type="reassign", keep=0.8)], refine=True)
"""


def run(folder, *command, ok=True):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, said
    return said


def tool(folder, name, *arguments, ok=True):
    return run(folder, sys.executable, ROOT / "tools" / f"{name}.py", *arguments, ok=ok)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made store of the mini-world."""
    folder = tmp_path_factory.mktemp("curate")
    (folder / "mine.py").write_text(CONFIG)
    tool(folder, "synthesize", "mine.py")
    tool(folder, "encode_images", "mine.py")
    return folder


def files(folder, name):
    store = folder / "data" / "miniscenes" / "pairs"
    found = [p for t in ("pairs", "refined") for p in sorted((store / t / name).glob("*"))]
    return {
        p.relative_to(store).as_posix().replace(name, "NAME"): p.read_bytes() for p in found if p.suffix == ".arrow"
    }


@pytest.mark.slow
def test_curate_inspect_and_train(folder):
    said = run(folder, sys.executable, "-m", "synthcap_mm.cli", "curate", "mine.py")
    assert "text→image recall@1" in said and "of the captions kept" in said
    assert "train_dataloader.dataset.pairs=curated" in said
    assert "is there, made with these settings" in tool(folder, "curate", "mine.py")
    # on two processes, another name: the same bytes
    run(folder, "bash", ROOT / "tools" / "dist_curate.sh", "mine.py", 2, "--cfg-options", "curation.name=two")
    assert files(folder, "two") == files(folder, "curated") and len(files(folder, "two")) == 6
    other = ("--cfg-options", "curation.steps.1.keep=0.5")
    said = tool(folder, "curate", "mine.py", *other, ok=False)
    assert "not replaced silently" in said and "--replace" in said and "Traceback" not in said
    tool(folder, "curate", "mine.py", "--replace", *other)

    page = folder / "page.html"
    said = tool(folder, "inspect_pairs", "mine.py", "--pairs", "two", "--redraw", "--real-photos", "data/photos",
                "--sample", 10, "--out", page)  # fmt: skip
    text = page.read_text()
    assert f"page: {page}" in said and text.count("data:image/jpeg") >= 10 and "real photos" in text
    assert "pairs/two from pairs/default" in text and "optimised drawings" in text
    tool(folder, "inspect_pairs", "mine.py", "--work-dir", "work")
    assert "--redraw draws them again" in (folder / "work" / "pairs_default.html").read_text()

    tool(folder, "train", "mine.py", "--work-dir", "work", "--cfg-options", "train_dataloader.dataset.pairs=two",
         "train_cfg.max_epochs=1", "model.head.layers=1", "model.head.generation.num_beams=1", "test_best=False",
         "train_dataloader.batch_size=16")  # fmt: skip
    assert (folder / "work" / "epoch_1.pth").is_file()


@pytest.mark.parametrize(
    "options, wanted",
    [
        (["curation=None"], "has no field 'curation'"),
        (["curation.colour=3"], "curation has no field colour; its fields are store, steps, name"),
        (["curation.steps=[]"], "curation.steps is a list of steps"),
        (["curation.source=best"], "no table pairs/best to curate; it has"),
        (["synthesis.store=nowhere"], "there is no store at nowhere"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(folder, options, wanted):
    said = tool(folder, "curate", "mine.py", "--cfg-options", *options, ok=False)
    assert wanted in said and "Traceback" not in said


def test_inspect_says_what_is_wrong(folder):
    said = tool(folder, "inspect_pairs", "mine.py", "--pairs", "none", ok=False)
    assert "no table 'pairs/none'" in said and "Traceback" not in said
    said = tool(folder, "inspect_pairs", "mine.py", "--real-photos", "nowhere", ok=False)
    assert "--real-photos: no store of photos and no folder at nowhere" in said and "Traceback" not in said


def test_a_list_of_steps_is_enough(folder):
    (folder / "list.py").write_text(CONFIG.split("curation =")[0] + "curation = [dict(type='clip_score', keep=0.5)]\n")
    tool(folder, "curate", "list.py", "--replace")
    note = json.loads((folder / "data" / "miniscenes" / "pairs" / "pairs" / "curated" / "curation.json").read_text())
    assert note["report"]["kept"] == 0.5 and note["settings"]["refine"] is None


@pytest.mark.parametrize("name, own", [("curate", "--replace"), ("inspect_pairs", "--real-photos")])
def test_help_is_worth_reading(tmp_path, name, own):
    said = tool(tmp_path, name, "--help")
    assert "--cfg-options" in said and own in said and len(said) > 600
