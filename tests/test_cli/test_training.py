"""train, test and test-many as one types them, on the mini-world made small."""

import json
import os
import re
import shlex
import sys
from argparse import Namespace

import pytest
from command_line import ROOT, run_command, run_process
from PIL import Image

from synthcap_mm.cli.arguments import load_config
from synthcap_mm.errors import UserError
from synthcap_mm.store import Store


def metrics(folder):
    return json.loads((folder / "test_metrics.json").read_text())["metrics"]


def training_captions(folder):
    return len(Store.open(folder / "data" / "miniscenes" / "pairs").caption_rows("train"))


def test_train_makes_the_stores_trains_tests_and_shows(trained):
    folder, said = trained
    assert (folder / "data" / "miniscenes" / "pairs" / "store.json").is_file()
    assert said.count("caption of train-") == 8  # four held-out captions, two epochs
    assert set(metrics(folder / "work")) >= {"CIDEr", "BLEU-4", "ROUGE_L"}
    assert (folder / "work" / "gallery.png").is_file() and f"gallery: {folder / 'work' / 'gallery.png'}" in said
    assert re.search(r"captioner  nearest training caption\n.*CIDEr +\d+\.\d\d +\d+\.\d\d", said, re.DOTALL)
    assert said.count("no estimate for photos") == 1 and said.count("nearest/CIDEr") == 1  # not at validations


def test_a_training_ends_with_commands_to_paste(trained):
    folder, said = trained
    typed = [line.split("synthcap-mm ")[-1].split("tools/")[-1] for line in said[said.rindex("next:") :].splitlines()]
    commands = [shlex.split(line) for line in typed if not line.lstrip().startswith("#")][1:]
    assert [words[0].removesuffix(".py") for words in commands] == ["test", "caption", "export"]
    photos = folder / "two"
    photos.mkdir()
    Image.new("RGB", (64, 64)).save(photos / "1.png")
    for name, *words in commands:
        run_command(folder, name.removesuffix(".py"), *(str(photos) if word == "PHOTOS" else word for word in words))
    assert metrics(folder / "work")["CIDEr"] == pytest.approx(
        float(re.findall(r" CIDEr: ([\d.]+)", said)[-1]), abs=1e-3
    )
    assert json.loads((folder / "work" / "captions.jsonl").read_text())["caption"]
    assert (folder / "work" / "export" / "model.safetensors").is_file()


def test_test_repeats_the_figures_and_needs_no_photos_for_them(trained, best, small):
    folder, _ = trained
    gone = [
        "photo_stores.0.photos._delete_=True", "photo_stores.0.photos.type=PhotoFolder", "photo_stores.0.photos.root=gone",
    ]  # fmt: skip
    for work, options in (("again", small), ("gone", [*small[:4], *small[6:], *gone])):
        run_command(folder, "test", "synthcap_mini.py", best, "--work-dir", work, "--cfg-options", *options)
        assert metrics(folder / work) == metrics(folder / "work")
        assert (folder / work / "gallery.png").exists() == (work == "again")


def test_a_test_tells_the_validation_that_chose_the_epoch_and_every_caption(trained):
    folder, said = trained
    report = json.loads((folder / "work" / "test_metrics.json").read_text())
    epoch = int(re.search(r"best_CIDEr_epoch_(\d+)\.pth$", report["checkpoint"])[1])
    chosen = re.findall(r"The best checkpoint with ([\d.]+) CIDEr at (\d+) epoch", said)[-1]
    assert report["validation"]["epoch"] == epoch == int(chosen[1])
    assert report["validation"]["metrics"]["CIDEr"] == pytest.approx(float(chosen[0]), abs=1e-3)
    assert report["skipped"] == {}
    images = json.loads((folder / "work" / "test_captions.json").read_text())["images"]
    assert len(images) == 9 and all(
        set(i) == {"references", "hypothesis", "nearest", "scores"} for i in images.values()
    )
    mean = sum(image["scores"]["CIDEr"] for image in images.values()) / 9
    assert mean == pytest.approx(report["metrics"]["CIDEr"])


def test_metrics_beyond_the_default_set_and_many_test_sets(trained, best, monkeypatch, small):
    """CLIPScore has the store's features and the config's encoder; METEOR without Java is skipped, and said to be."""
    folder, _ = trained
    (folder / "mine.txt").write_text("a red ball in the snow\na blue boat\n")
    (folder / "many.py").write_text(
        f"_base_ = {str(ROOT / 'configs' / 'synthcap_mini.py')!r}\n"
        "test_evaluator = dict(metrics=['CIDEr', 'CLIPScore', 'METEOR'])\n"
        "test_sets = [dict(name='own', store='data/miniscenes/test'),\n"
        "             dict(name='TT', store='data/miniscenes/val', memory='mine.txt')]\n"
    )
    monkeypatch.setenv("PATH", str(folder))  # without Java
    said = run_command(folder, "test-many", "many.py", best, "--cfg-options", *small)
    table = said[said.rindex("on 2 test sets:") :]
    for title in ("own", "own, nearest training caption", "TT", "TT, nearest training caption"):
        assert re.search(rf"\n  {title} +\d+\.\d\d +\d+\.\d\d\n", table), table
    assert "METEOR     skipped: needs Java" in said and "METEOR skipped: needs Java" in said
    report = json.loads((folder / "work_dirs" / "many" / "own" / "test_metrics.json").read_text())
    assert set(report["metrics"]) == {"CIDEr", "CLIPScore", "nearest/CIDEr", "nearest/CLIPScore"}
    assert report["metrics"]["CLIPScore"] > 0
    assert report["skipped"] == {"METEOR": "needs Java (a `java` on the PATH)"}


def test_a_dry_run_says_the_cost_and_touches_nothing(trained, tmp_path, small):
    folder, _ = trained
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    arguments = ["synthcap_mini.py", "--dry-run", "--cfg-options", *small]
    said = run_command(folder, "train", *arguments)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "a training of synthcap_mini:" in said and "Nothing was kept: this was a dry run." in said
    rows = training_captions(folder)
    assert f"TextMemoryProjection: {rows} rows of 256" in said and "16 captions a rank, 16 a step" in said
    assert f"2 epochs, {2 * -(-rows // 16)} steps" in said
    # What is missing is listed, not made.
    said = run_command(tmp_path, "train", *arguments, status=1)
    assert "tools/synthesize.py" in said and "tools/encode_images.py" in said
    assert not list(tmp_path.iterdir())


def test_a_work_dir_that_mmengine_cannot_write_is_refused():
    with pytest.raises(UserError, match=r"w\\xe9.*--work-dir"):
        load_config(Namespace(config="synthcap_mini.py", cfg_options=[], work_dir=os.fsdecode(b"w\xe9")))


@pytest.mark.slow
def test_two_processes_test_as_one(trained, best, small):
    folder, _ = trained
    run_process(folder, "bash", ROOT / "tools" / "dist_test.sh", "synthcap_mini.py", best, 2,
        "--work-dir", "two", "--cfg-options", *small)  # fmt: skip
    assert metrics(folder / "two") == pytest.approx(metrics(folder / "work"))


RANKS = """
import hashlib, time
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from synthcap_mm.engine.atomic_backend import AtomicLocalBackend
from synthcap_mm.registry import HOOKS

put = AtomicLocalBackend.put

def slowly(self, obj, filepath):
    if "best_" in str(filepath):
        time.sleep(3)
    put(self, obj, filepath)

AtomicLocalBackend.put = slowly

@HOOKS.register_module()
class SayWeights(Hook):
    def after_train(self, runner):
        digest = hashlib.sha256()
        for parameter in runner.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        with open(f"rank{get_rank()}.txt", "w") as file:
            file.write(f"{runner.iter} {digest.hexdigest()}")
"""


@pytest.mark.slow
def test_two_processes_train_without_a_gpu(trained, small):
    """One epoch, so that the last is the best; it is written slowly, and no rank reads it too early."""
    folder, _ = trained
    # In the current folder, which is not on Python's path.
    (folder / "ranks.py").write_text(RANKS)
    (folder / "mine").mkdir()
    base = repr(str(ROOT / "configs" / "synthcap_mini.py"))
    hooks = "dict(type='IterationSeedHook'), dict(type='SayWeights')"
    (folder / "mine" / "config.py").write_text(
        f"_base_ = {base}\ncustom_imports = dict(imports=['ranks'])\ncustom_hooks = [{hooks}]\n"
    )
    run_process(folder, "bash", ROOT / "tools" / "dist_train.sh", "mine/config.py", 2,
        "--work-dir", "dist", "--cfg-options", *small, "train_cfg.max_epochs=1")  # fmt: skip
    assert "CIDEr" in metrics(folder / "dist")
    # The captions are shared out between 2 processes of 16 a step.
    first, second = ((folder / f"rank{i}.txt").read_text().split() for i in range(2))
    assert first == second and int(first[0]) == -(-training_captions(folder) // 32)


@pytest.mark.parametrize(
    "changes, named",
    [
        (["synthesis.seed=7"], "seed"),  # would draw anew
        (["synthesis.generator.drop=0.5"], "generator.drop"),
        (["synthesis.refine.steps=3", "auto_synthesize=False"], "refined/default"),
        (["synthesis.tokenizer.vocab_size=300", "auto_synthesize=False"], "tokenizer"),
    ],
)
def test_a_store_of_other_settings_is_not_trained_on(trained, small, changes, named):
    folder, _ = trained
    options = ["--work-dir", "stale", "--cfg-options", *small, *changes]
    said = run_command(folder, "train", "synthcap_mini.py", *options, status=1)
    assert named in said and not (folder / "stale").exists()


def test_tensorboard_is_a_switch(trained, monkeypatch, small):
    folder, _ = trained
    options = ["--work-dir", "board", "--no-validate", "--cfg-options", *small, "test_best=False", "tensorboard=True"]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "tensorboard", None)
        without.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
        said = run_command(folder, "train", "synthcap_mini.py", *options, status=1)
    assert "pip install 'synthcap_mm[tensorboard]'" in said
    pytest.importorskip("tensorboard")
    run_command(folder, "train", "synthcap_mini.py", *options)
    assert list((folder / "board").rglob("events.out.tfevents.*")) and list((folder / "board").rglob("scalars.json"))


def test_a_training_that_begins_over_another_says_so(trained, monkeypatch):
    folder, first = trained
    monkeypatch.setattr("synthcap_mm.pipeline.train", lambda cfg, dry_run: None)
    again = run_command(folder, "train", "synthcap_mini.py", "--work-dir", "work")
    assert "epoch_2.pth" in again and "--resume" in again
    assert run_command(folder, "train", "synthcap_mini.py", "--work-dir", "work", "--resume") == ""
    assert "--resume" not in first


def test_flags(trained, small):
    folder, _ = trained
    options = ["--cfg-options", *small, "test_best=False", "default_hooks.logger.interval=1"]
    said = run_command(
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
    again = run_command(folder, "train", "synthcap_mini.py", *resume)
    assert "resumed epoch: 2" in again
    assert "Epoch(train) [1]" not in again and "Epoch(train) [3]" in again
    fresh = ["--work-dir", "fresh", "--resume", "--no-validate", *options, "train_cfg.max_epochs=1"]
    checkpoint = str(next((folder / "flags").glob("epoch_*.pth")).resolve())
    said = run_command(folder, "train", "synthcap_mini.py", *fresh, f"load_from={checkpoint}")
    # A fine-tuning begins with its weights whether or not it may be resumed.
    assert "nothing to resume in fresh" in said and f"Load checkpoint from {checkpoint}" in said
