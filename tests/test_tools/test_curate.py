"""Curating and looking, as a user types it, on the mini-world made small."""

import json

import pytest
from command_line import ROOT, run_command, run_process

CONFIG = f"""
_base_ = [{str(ROOT / "configs" / "synthcap_mini.py")!r}]
synthesis = dict(captions=dict(num=80), holdout=0.2, shard_size=32, tokenizer=dict(vocab_size=400))
photo_stores = [dict(store="data/photos", photos=dict(type="MiniScenesPhotos", split="val", num=6))]
curation = dict(steps=[dict(type="merge_duplicates", min_similarity=0.99), dict(type="reassign", keep=0.8)], refine=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made store of the mini-world."""
    folder = tmp_path_factory.mktemp("curate")
    (folder / "mine.py").write_text(CONFIG)
    run_command(folder, "synthesize", "mine.py")
    run_command(folder, "encode-images", "mine.py")
    return folder


def files(folder, name):
    store = folder / "data" / "miniscenes" / "pairs"
    found = [p for t in ("pairs", "refined") for p in sorted((store / t / name).glob("*"))]
    return {
        p.relative_to(store).as_posix().replace(name, "NAME"): p.read_bytes() for p in found if p.suffix == ".arrow"
    }


@pytest.mark.slow
def test_curate_inspect_and_train(folder):
    said = run_command(folder, "curate", "mine.py")
    assert "text→image recall@1" in said and "of the captions kept" in said
    assert "train_dataloader.dataset.pairs=curated" in said
    assert "is there, made with these settings" in run_command(folder, "curate", "mine.py")
    # on two processes, another name: the same bytes
    run_process(folder, "bash", ROOT / "tools" / "dist_curate.sh", "mine.py", 2, "--cfg-options", "curation.name=two")
    assert files(folder, "two") == files(folder, "curated") and len(files(folder, "two")) == 6
    other = ("--cfg-options", "curation.steps.1.keep=0.5")
    said = run_command(folder, "curate", "mine.py", *other, status=1)
    assert "not replaced silently" in said and "--replace" in said
    run_command(folder, "curate", "mine.py", "--replace", *other)

    page = folder / "page.html"
    said = run_command(folder, "inspect-pairs", "mine.py", "--pairs", "two", "--redraw", "--real-photos", "data/photos",
                "--sample", 10, "--out", page)  # fmt: skip
    text = page.read_text()
    assert f"page: {page}" in said and text.count("data:image/jpeg") >= 10 and "real photos" in text
    assert "pairs/two from pairs/default" in text and "optimised drawings" in text
    run_command(folder, "inspect-pairs", "mine.py", "--work-dir", "work")
    assert "--redraw draws them again" in (folder / "work" / "pairs_default.html").read_text()

    run_command(folder, "train", "mine.py", "--work-dir", "work", "--cfg-options", "train_dataloader.dataset.pairs=two",
         "train_cfg.max_epochs=1", "model.head.layers=1", "model.head.generation.num_beams=1", "test_best=False",
         "train_dataloader.batch_size=16")  # fmt: skip
    assert (folder / "work" / "epoch_1.pth").is_file()


@pytest.mark.parametrize(
    "options, wanted",
    [
        (["curation=None"], "has no field 'curation'"),
        (["curation.colour=3"], "colour"),
        (["curation.steps=[]"], "curation.steps is a list of steps"),
        (["curation.source=best"], "no table pairs/best to curate; it has"),
        (["synthesis.store=nowhere"], "there is no store at nowhere"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(folder, options, wanted):
    said = run_command(folder, "curate", "mine.py", "--cfg-options", *options, status=1)
    assert wanted in said


def test_inspect_says_what_is_wrong(folder):
    said = run_command(folder, "inspect-pairs", "mine.py", "--pairs", "none", status=1)
    assert "no table 'pairs/none'" in said
    said = run_command(folder, "inspect-pairs", "mine.py", "--real-photos", "nowhere", status=1)
    assert "--real-photos: no store of photos and no folder at nowhere" in said


def test_a_list_of_steps_is_enough(folder):
    (folder / "list.py").write_text(CONFIG.split("curation =")[0] + "curation = [dict(type='clip_score', keep=0.5)]\n")
    run_command(folder, "curate", "list.py", "--replace")
    note = json.loads((folder / "data" / "miniscenes" / "pairs" / "pairs" / "curated" / "curation.json").read_text())
    assert note["report"]["kept"] == 0.5 and note["settings"]["refine"] is None
