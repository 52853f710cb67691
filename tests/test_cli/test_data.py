"""Commands that make and show data: synthesize, encode-images, curate, inspect-pairs, store, prepare-data."""

import os
import socket
import subprocess
import sys

import pytest
from command_line import ROOT, run_command, run_process

from synthcap_mm.store import Store, StoreError

SMALL = ["--cfg-options", "synthesis.captions.num=60", "synthesis.shard_size=16", "synthesis.tokenizer.vocab_size=400"]
CONFIG = f"""
_base_ = [{str(ROOT / "configs" / "synthcap_mini.py")!r}]
synthesis = dict(captions=dict(num=80), holdout=0.2, shard_size=32, tokenizer=dict(vocab_size=400))
photo_stores = [dict(store="data/photos", photos=dict(type="MiniScenesPhotos", split="val", num=6))]
curation = dict(steps=[dict(type="merge_duplicates", min_similarity=0.99), dict(type="reassign", keep=0.8)], refine=True)
"""


def shards(folder):
    """Content of each shard below a folder."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("tables/*/[0-9]*") if p.is_file()}
    assert len(found) > 10
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The shards that one process makes of the small mini-world."""
    folder = tmp_path_factory.mktemp("one")
    run_command(folder, "synthesize", "synthcap_mini.py", *SMALL)
    return shards(folder)


def test_a_dry_run_then_the_first_captions_then_a_stage_too_early(tmp_path):
    def run(*arguments, status=0):
        return run_command(tmp_path, "synthesize", "synthcap_mini.py", *arguments, *SMALL, status=status)

    run("--dry-run")
    assert not (tmp_path / "data").exists()
    run("--limit", "20")
    assert len(Store.open(tmp_path / "data" / "miniscenes" / "pairs" / "first20.json").captions) == 20
    run("--only", "refine", status=75)


def test_tasks_make_the_store_of_one_process(tmp_path, one):
    def run(number, status):
        run_command(tmp_path, "synthesize", "synthcap_mini.py", "--task", f"{number}/2", *SMALL, status=status)

    run(1, 75)  # its share; what needs the whole waits for the other task
    with pytest.raises(StoreError):
        Store.open(tmp_path / "data" / "miniscenes" / "pairs")
    run(0, 0)  # all of its share; the other's is not its to make
    run(1, 0)
    assert shards(tmp_path) == one and len(Store.open(tmp_path / "data" / "miniscenes" / "pairs").captions) == 60


@pytest.mark.slow
def test_ranks_make_the_store_of_one_process(tmp_path, one):
    """Two processes of torchrun, and two as srun starts them."""
    run_process(tmp_path, "bash", ROOT / "tools" / "dist_synthesize.sh", "synthcap_mini.py", 2, *SMALL)
    assert shards(tmp_path) == one
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (tmp_path / "slurm").mkdir()
    ranks = []
    for rank in "01":
        slurm = {"SLURM_PROCID": rank, "SLURM_NTASKS": "2", "SLURM_LOCALID": rank}
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
        env |= {**slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, ROOT / "tools" / "synthesize.py", "synthcap_mini.py", "--launcher", "slurm", *SMALL]
        ranks.append(subprocess.Popen(command, cwd=tmp_path / "slurm", env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert shards(tmp_path / "slurm") == one


# ---- curating, looking
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A made store of the mini-world."""
    folder = tmp_path_factory.mktemp("curate")
    (folder / "mine.py").write_text(CONFIG)
    run_command(folder, "synthesize", "mine.py")
    run_command(folder, "encode-images", "mine.py")
    return folder


def pairs_of(folder):
    return Store.open(folder / "data" / "miniscenes" / "pairs")


def test_curate_then_look_then_train(folder, tmp_path):
    said = run_command(folder, "curate", "mine.py")
    assert "train_dataloader.dataset.pairs=curated" in said
    store = pairs_of(folder)
    assert store.has("refined/curated") and len(store.pairs("curated")) < len(store.pairs())
    before = shards(folder)
    run_command(folder, "curate", "mine.py")
    assert shards(folder) == before
    # Other settings make another table, and the name means that one.
    run_command(folder, "curate", "mine.py", "--cfg-options", "curation.steps.1.keep=0.5")
    assert len(pairs_of(folder).pairs("curated")) < len(store.pairs("curated"))
    assert {path: shards(folder)[path] for path in before} == before

    page = tmp_path / "page.html"
    run_command(folder, "inspect-pairs", "mine.py", "--pairs", "curated", "--redraw", "--real-photos", "data/photos",
                "--sample", 10, "--out", page)  # fmt: skip
    assert page.read_text().count("data:image/jpeg") >= 10
    run_command(folder, "inspect-pairs", "mine.py", "--work-dir", "work")
    assert "--redraw" in (folder / "work" / "pairs_default.html").read_text()
    stale = run_command(folder, "train", "mine.py", "--cfg-options", "train_dataloader.dataset.pairs=curated",
                        "auto_synthesize=False", "test_best=False", status=1)  # fmt: skip
    assert "pairs/curated" in stale and "keep" in stale
    run_command(folder, "train", "mine.py", "--work-dir", "work", "--no-validate", "--cfg-options",
                "train_dataloader.dataset.pairs=curated", "train_cfg.max_epochs=1", "model.head.layers=1",
                "curation.steps.1.keep=0.5",
                "test_best=False", "auto_synthesize=False", "train_dataloader.batch_size=16")  # fmt: skip
    assert (folder / "work" / "epoch_1.pth").is_file()


def test_tasks_curate_as_one_process(folder, tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG)
    run_command(tmp_path, "synthesize", "mine.py")
    for number, status in ((1, 75), (0, 75), (1, 0)):
        run_command(tmp_path, "curate", "mine.py", "--task", f"{number}/2", status=status)
    run_command(folder, "curate", "mine.py")
    store, other = pairs_of(folder), pairs_of(tmp_path)
    for name in ("pairs/curated", "refined/curated"):
        assert [p.read_bytes() for p in store.paths(name)] == [p.read_bytes() for p in other.paths(name)]


@pytest.mark.parametrize(
    "options, word",
    [
        (["curation=None"], "curation"),
        (["curation.colour=3"], "curation.colour"),
        (["curation.steps=[]"], "curation.steps"),
        (["curation.source=best"], "pairs/best"),
        (["synthesis.store=nowhere"], "nowhere"),
    ],
)
def test_a_curation_that_cannot_be_is_refused(folder, options, word):
    assert word in run_command(folder, "curate", "mine.py", "--cfg-options", *options, status=1)


def test_nothing_to_look_at_is_refused(folder):
    assert "pairs/none" in run_command(folder, "inspect-pairs", "mine.py", "--pairs", "none", status=1)
    said = run_command(folder, "inspect-pairs", "mine.py", "--real-photos", "nowhere", status=1)
    assert "--real-photos" in said and "nowhere" in said


def test_a_list_of_steps_is_enough(folder):
    text = CONFIG.split("curation =")[0]
    (folder / "list.py").write_text(text + "curation = [dict(type='clip_score', keep=0.5)]\n")
    run_command(folder, "curate", "list.py")
    store = pairs_of(folder)
    assert len(store.pairs("curated")) < len(store.pairs()) and not store.has("refined/curated")


# ---- what lies in a store
def test_a_store_is_listed_checked_and_mended(tmp_path, one):
    folder = tmp_path / "data" / "miniscenes" / "pairs"
    run_command(tmp_path, "synthesize", "synthcap_mini.py", *SMALL)
    said = run_command(tmp_path, "store", folder, "--check")
    for table in (folder / "tables").iterdir():
        assert table.name in said
    # A byte in the middle of a file, which no look at its ends finds.
    victim = next((folder / "tables").glob("image_features-*/00001-*.arrow"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert str(victim) in run_command(tmp_path, "store", folder, "--check", status=1)
    assert not victim.exists()
    run_command(tmp_path, "synthesize", "synthcap_mini.py", "--redraw", *SMALL)
    run_command(tmp_path, "store", folder, "--check")
    assert {path: content for path, content in shards(tmp_path).items() if path.suffix != ".damaged"} == one


def test_pruning_removes_what_neither_a_view_nor_a_config_refers_to(tmp_path, monkeypatch):
    run_command(tmp_path, "synthesize", "synthcap_mini.py", *SMALL)
    folder = tmp_path / "data" / "miniscenes" / "pairs"
    (tmp_path / "other.py").write_text(f"_base_ = [{str(ROOT / 'configs' / 'synthcap_mini.py')!r}]\n"
        "synthesis = dict(captions=dict(num=60), shard_size=16, tokenizer=dict(vocab_size=400), refine=dict(steps=2))\n")  # fmt: skip
    first = shards(tmp_path)
    run_command(tmp_path, "synthesize", "other.py")
    both = shards(tmp_path)
    run_command(tmp_path, "synthesize", "synthcap_mini.py", *SMALL)  # the view has the first settings' tables again
    assert shards(tmp_path) == both and len(both) > len(first)

    def prune(*more):
        run_command(tmp_path, "store", folder, "--prune", *more)
        return shards(tmp_path)

    assert prune("--yes") == both  # another job may be making what is younger than a week
    for path in folder.rglob("tables/*/*"):
        os.utime(path, (0, 0))
    assert prune("--configs", "other.py", "--yes") == both
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert prune() == both
    assert prune("--yes") == first
    assert len(list((folder / "tables").glob("refined-*"))) == 1
    assert str(tmp_path) in run_command(tmp_path, "store", tmp_path, status=1)


def test_prepare_data_lists_what_is_missing_and_where_to_get_it(tmp_path):
    said = run_command(tmp_path, "prepare-data", "coco", "flickr30k", "nocaps", "--source", ".", status=1)
    for words in ("caption_datasets.zip", "val2014.zip", "flickr30k-images", "nocaps.org/download"):
        assert words in said
    assert not list(tmp_path.iterdir())
    assert "'coco'" in run_command(tmp_path, "prepare-data", "imagenet", status=2)
