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


def run(folder, *command, ok=True, path=None):
    where = f"{path}{os.pathsep}{ROOT}" if path else str(ROOT)
    env = {**os.environ, "PYTHONPATH": where, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    command = [str(c) for c in command]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    text = result.stdout + result.stderr
    assert (result.returncode == 0) == ok, text
    return text


def tool(folder, name, *arguments, ok=True, path=None):
    return run(folder, sys.executable, ROOT / "tools" / f"{name}.py", *arguments, ok=ok, path=path)


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


def test_a_test_tells_the_validation_that_chose_the_epoch_and_every_caption(trained):
    folder, said = trained
    report = json.loads((folder / "work" / "test_metrics.json").read_text())
    epoch = int(re.search(r"best_CIDEr_epoch_(\d+)\.pth$", report["checkpoint"])[1])
    best = re.findall(r"The best checkpoint with ([\d.]+) CIDEr at (\d+) epoch", said)[-1]
    assert report["validation"]["epoch"] == epoch == int(best[1])
    assert report["validation"]["metrics"]["CIDEr"] == pytest.approx(float(best[0]), abs=1e-3)
    assert report["skipped"] == {}
    images = json.loads((folder / "work" / "test_captions.json").read_text())["images"]
    assert len(images) == 9 and all(set(i) == {"references", "hypothesis", "scores"} for i in images.values())
    mean = sum(image["scores"]["CIDEr"] for image in images.values()) / 9
    assert mean == pytest.approx(report["metrics"]["CIDEr"])


def test_metrics_beyond_the_default_set_and_many_test_sets(trained):
    """CLIPScore has the store's features and the config's encoder; METEOR without Java is skipped, and said to be."""
    folder, _ = trained
    best = next((folder / "work").glob("best_CIDEr_epoch_*.pth"))
    (folder / "mine.txt").write_text("a red ball in the snow\na blue boat\n")
    (folder / "many.py").write_text(
        f"_base_ = {str(ROOT / 'configs' / 'synthcap_mini.py')!r}\n"
        "test_evaluator = dict(metrics=['CIDEr', 'CLIPScore', 'METEOR'])\n"
        "test_sets = [dict(name='own', store='data/miniscenes/test'),\n"
        "             dict(name='TT', store='data/miniscenes/val', memory='mine.txt')]\n"
    )
    bin = folder / "bin"  # a PATH without Java
    bin.mkdir()
    command = [sys.executable, ROOT / "tools" / "test_many.py", "many.py", best, "--cfg-options", *SMALL]
    said = run(folder, "env", f"PATH={bin}", *command)
    table = said[said.rindex("on 2 test sets:") :]
    assert re.search(r"own +\d+\.\d\d +\d+\.\d\d\n +TT +\d+\.\d\d +\d+\.\d\d\n", table), table
    assert "METEOR     skipped: needs Java" in said and "METEOR skipped: needs Java" in said
    report = json.loads((folder / "work_dirs" / "many" / "own" / "test_metrics.json").read_text())
    assert set(report["metrics"]) == {"CIDEr", "CLIPScore"} and report["metrics"]["CLIPScore"] > 0
    assert report["skipped"] == {"METEOR": "needs Java (a `java` on the PATH)"}


def test_a_dry_run_says_the_cost_and_touches_nothing(trained, tmp_path):
    folder, _ = trained
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    arguments = ["synthcap_mini.py", "--dry-run", "--cfg-options", *SMALL]
    said = tool(folder, "train", *arguments)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "a training of synthcap_mini:" in said and "Nothing was kept: this was a dry run." in said
    assert re.search(r"memory        TextMemoryProjection: 64 rows of 256, 0\.1 MB", said), said
    assert re.search(r"schedule      2 epochs, 8 steps: \d+\.\d\d h on this device \(computed\)", said), said
    assert re.search(r"batch         16 captions a rank, 16 a step; \d+ tokens a rank, \d+ of them learnt", said), said
    assert re.search(r"validation    16 images, \d+\.\d\d s a batch", said), said
    # On two processes too: the steps are a rank's share.
    said = run(folder, "bash", ROOT / "tools" / "dist_train.sh", "synthcap_mini.py", 2, *arguments[1:])
    assert said.count("Nothing was kept") == 1 and "2 ranks" in said and "16 captions a rank, 32 a step" in said
    assert "2 epochs, 4 steps" in said and {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    # What is missing is listed, not made.
    said = tool(tmp_path, "train", *arguments, ok=False)
    assert "tools/synthesize.py" in said and "tools/encode_images.py" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
    said = tool(folder, "train", "synthcap_mini.py", "--dry-run", "--resume", ok=False)
    assert "does not go with --resume" in said


def test_repeat(trained):
    folder, _ = trained
    arguments = [
        "synthcap_mini.py",
        "--seeds",
        2,
        "--work-dir",
        "repeat",
        "--cfg-options",
        *SMALL,
        "train_cfg.max_epochs=1",
    ]
    said = tool(folder, "repeat", *arguments)
    seeds = [json.loads((folder / "repeat" / f"seed_{n}" / "test_metrics.json").read_text()) for n in range(2)]
    assert [seed["seed"] for seed in seeds] == [0, 1]
    summary = json.loads((folder / "repeat" / "repeat.json").read_text())
    values = [seed["metrics"]["ROUGE_L"] for seed in seeds]
    assert summary["test"]["ROUGE_L"]["values"] == values and values[0] != values[1]
    assert f"{sum(values) / 2:.2f} ± {abs(values[0] - values[1]) / 2**0.5:.2f}" in said
    assert (folder / "repeat" / "repeat.csv").is_file()
    again = tool(folder, "repeat", *arguments)
    assert "Epoch(train)" not in again and again.splitlines()[-9:] == said.splitlines()[-9:]
    assert "no test split" in tool(folder, "repeat", "synthcap_custom.py", ok=False)
    wrong = tool(folder, "repeat", "synthcap_mini.py", "--cfg-options", "randomness.seed=3", ok=False)
    assert "randomness.seed is set by this tool" in wrong


THREADS = """
import atexit, os
from pathlib import Path

def note():  # the last of all functions at exit, as it is the first to be registered
    if "LOCAL_RANK" in os.environ:
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        Path(f"threads{os.environ['RANK']}.txt").write_text(str(names.count("pt_gloo_runloop")))

if Path("/proc/self/task").is_dir():
    atexit.register(note)
"""


@pytest.fixture
def threads_left(tmp_path):
    """A folder for Python's path with which each rank notes how many threads of gloo are there at its very end."""
    (tmp_path / "sitecustomize.py").write_text(THREADS)
    return tmp_path


def assert_none_left(folder):
    if Path("/proc/self/task").is_dir():
        noted = sorted(folder.glob("threads*.txt"))
        assert [file.read_text() for file in noted] == ["0", "0"]
        for file in noted:
            file.unlink()


def test_two_processes_test_as_one(trained, threads_left):
    folder, _ = trained
    best = next((folder / "work").glob("best_CIDEr_epoch_*.pth"))
    run(folder, "bash", ROOT / "tools" / "dist_test.sh", ROOT / "configs" / "synthcap_mini.py", best, 2,
        "--work-dir", "two", "--cfg-options", *SMALL, path=threads_left)  # fmt: skip
    assert_none_left(folder)
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


def test_two_processes_train_without_a_gpu(trained, threads_left):
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
    run(folder, "bash", ROOT / "tools" / "dist_train.sh", "mine/config.py", 2,
        "--work-dir", "dist", "--cfg-options", *SMALL, "train_cfg.max_epochs=1", path=threads_left)  # fmt: skip
    assert_none_left(folder)
    assert "CIDEr" in metrics(folder / "dist")
    # 64 training captions in 2 processes of 16: half the steps of a single run.
    first, second = ((folder / f"rank{i}.txt").read_text().split() for i in range(2))
    assert first == second and first[0] == "2"


def test_modules_beside_the_config_are_found(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "beside.py").write_text("print('beside was imported')")
    (tmp_path / "here.py").write_text("print('here was imported')")
    (tmp_path / "mine" / "config.py").write_text("custom_imports = dict(imports=['beside', 'here'])")
    for command in ([ROOT / "tools" / "test.py"], ["-m", "synthcap_mm.cli", "test"]):
        # -P where there is one: -m would put the current folder on the path, as the installed command does not.
        safe = ["-P"] if sys.version_info >= (3, 11) and command[0] == "-m" else []
        said = run(tmp_path, sys.executable, *safe, *command, "mine/config.py", "nothing.pth", ok=False)
        assert "beside was imported" in said and "here was imported" in said and "no checkpoint" in said


def test_a_test_without_the_photos_has_its_figures(trained):
    folder, _ = trained
    best = next((folder / "work").glob("best_CIDEr_epoch_*.pth"))
    gone = [
        "photo_stores.0.photos._delete_=True", "photo_stores.0.photos.type=PhotoFolder", "photo_stores.0.photos.root=gone",
    ]  # fmt: skip
    said = tool(
        folder, "test", "synthcap_mini.py", best, "--work-dir", "gone", "--cfg-options", *SMALL[:4], *SMALL[6:], *gone
    )
    assert "no gallery: " in said and not (folder / "gone" / "gallery.png").exists()
    assert metrics(folder / "gone") == metrics(folder / "work")


@pytest.mark.parametrize(
    "change, said_of_it",
    [
        ("synthesis.seed=7", "seed: the store has 0, the config asks for 7"),
        ("synthesis.generator.drop=0.5", "generator.drop: the store has 0.1, the config asks for 0.5"),
        ("synthesis.refine.steps=3", "refined/default: refine: "),
        ("synthesis.tokenizer.vocab_size=300", "tokenizer: tokenizer: "),
        ("synthesis.keep_images=True", "keep_images: the store has None, the config asks for 'png'"),
        ("synthesis.captions.num=90", "captions: the store has 80, the config asks for 90"),
    ],
)
def test_a_stale_store_is_not_trained_on(trained, change, said_of_it):
    folder, _ = trained
    said = tool(folder, "train", "synthcap_mini.py", "--work-dir", "stale", "--cfg-options", *SMALL, change, ok=False)
    assert said_of_it in said and "not trained on silently" in said
    assert "Epoch(train)" not in said and "Traceback" not in said
    # What can be made anew by itself is told with the command.
    assert ("tools/synthesize.py" in said) == (said_of_it.startswith(("refined/default", "tokenizer")))


def test_tensorboard_is_a_switch(trained):
    folder, _ = trained
    options = ["--work-dir", "board", "--no-validate", "--cfg-options", *SMALL, "test_best=False", "tensorboard=True"]
    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text("import sys\nsys.modules['tensorboard'] = None\n")
    said = tool(folder, "train", "synthcap_mini.py", *options, ok=False, path=folder / "without")
    assert "pip install 'synthcap_mm[tensorboard]'" in said and "Traceback" not in said
    pytest.importorskip("tensorboard")
    tool(folder, "train", "synthcap_mini.py", *options)
    assert list((folder / "board").rglob("events.out.tfevents.*")) and list((folder / "board").rglob("scalars.json"))


FLAGS = ["--cfg-options", "--launcher", "--work-dir", "--resume", "--amp", "--no-validate", "--auto-scale-lr"]


def test_the_readme_says_which_tool_takes_which_flag(tmp_path):
    rows = re.findall(r"^\| `(--[^`]*)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert sorted(f for row in rows for f in row[0].split()) == sorted(FLAGS)
    columns = (["train"], ["test"], ["synthesize", "encode_images", "curate"], ["inspect_pairs"])
    for column, names in enumerate(columns, 1):
        for name in names:
            said = tool(tmp_path, name, "--help")
            for row in rows:
                for flag in row[0].split():
                    assert (f"{flag} " in said or f"{flag}]" in said) == row[column].startswith("yes"), (name, flag)


@pytest.mark.parametrize("command", ["train", "test", "synthesize", "encode_images", "list"])
def test_a_clash_is_named_before_a_broken_mmengine_is_imported(tmp_path, command):
    for name, version in (("onedl_mmengine", "0.10.12"), ("mmengine", "0.10.7")):
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
        (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    (tmp_path / "mmengine").mkdir()
    (tmp_path / "mmengine" / "__init__.py").write_text("raise ImportError('torn')")
    arguments = ["-m", "synthcap_mm.cli", "list"] if command == "list" else [ROOT / "tools" / f"{command}.py", "--help"]
    said = run(tmp_path, sys.executable, *arguments, ok=False, path=tmp_path)
    assert "pip uninstall -y mmengine onedl-mmengine" in said and "torn" not in said


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
    checkpoint = str(next((folder / "flags").glob("epoch_*.pth")).resolve())
    said = tool(folder, "train", "synthcap_mini.py", *fresh, f"load_from={checkpoint}")
    # A fine-tuning begins with its weights whether or not it may be resumed.
    assert "nothing to resume in fresh" in said and f"Load checkpoint from {checkpoint}" in said


def test_missing_things_are_named_with_the_command(tmp_path):
    said = tool(tmp_path, "train", "synthcap_mini.py", "--cfg-options", "auto_synthesize=False", ok=False)
    assert "tools/synthesize.py" in said and "data/miniscenes/pairs" in said and "Traceback" not in said
    said = tool(tmp_path, "test", "synthcap_mini.py", "nothing.pth", ok=False)
    assert "no checkpoint at nothing.pth" in said and "Traceback" not in said


@pytest.mark.parametrize("name", ["train", "test", "synthesize", "encode_images"])
def test_help_is_worth_reading(tmp_path, name):
    said = tool(tmp_path, name, "--help")
    assert "--cfg-options" in said and "--launcher" in said and len(said) > 600
