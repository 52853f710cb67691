"""A pretrained decoder in shards on two CPU processes: the config of GPT-2 XL with a small GPT-2 in its place."""

import json
import re
import shutil

import pytest
import torch
from command_line import ROOT, run_command, run_process

CONFIG = """
_base_ = [{base!r}]
model = dict(
    store={pairs!r},
    data_preprocessor=dict(tokenizer="gpt2/tokenizer.json", max_length=16),
    necks=dict(projector=dict(prefix_length=2)),
    head=dict(pretrained="gpt2", generation=dict(num_beams=2)),
)
loader = dict(num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader = dict(batch_size=4, dataset=dict(store={pairs!r}), **loader)
val_dataloader = dict(batch_size=1, dataset=dict(store={pairs!r}), **loader)
test_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(store={photos!r}))
train_cfg = dict(max_epochs=2)
# So little that every step is clipped: by the norm of a shard it would be another step.
optim_wrapper = dict(dtype="float32", optimizer=dict(lr=0.01), clip_grad=dict(max_norm=0.05))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=3))
{more}
"""


def distributed(folder, name, *options):
    return run_process(folder, "bash", ROOT / "tools" / "dist_train.sh", f"{name}.py", 2, *options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_stores):
    """The small GPT-2 in the hub's format, and two configs: sharded, and with MMEngine's usual runner."""
    import transformers

    from synthcap_mm.store import Store
    from synthcap_mm.tokenization import CaptionTokenizer

    folder = tmp_path_factory.mktemp("fsdp")
    pairs, photos = tiny_stores
    torch.manual_seed(0)
    tokenizer = CaptionTokenizer(Store.open(pairs).tokenizer_path)
    shape = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 80}
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=tokenizer.vocab_size, **shape))
    decoder.save_pretrained(folder / "gpt2")
    shutil.copy(tokenizer.path, folder / "gpt2" / "tokenizer.json")
    base = str(ROOT / "configs" / "synthcap" / "synthcap_gpt2-xl_coco_fsdp.py")
    for name, more in (("sharded", "test_best = True"), ("whole", "runner_type = 'Runner'\nstrategy = None")):
        text = CONFIG.format(base=base, pairs=pairs, photos=photos, more=more)
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """What the two trainings said, and their last checkpoints."""
    said = {name: distributed(folder, name) for name in ("sharded", "whole")}
    return said, {name: load(folder, name, 2) for name in said}


def load(folder, name, epoch):
    return torch.load(folder / "work_dirs" / name / f"epoch_{epoch}.pth", weights_only=False)


def of(checkpoint):
    return checkpoint["state_dict"]


def figures(said, what):
    return [float(v) for v in re.findall(rf"\b{what}: ([\d.]+)", said)]


@pytest.mark.slow
def test_it_learns_what_one_that_is_not_sharded_learns(folder, trained):
    said, (sharded, whole) = trained[0], (of(trained[1][n]) for n in ("sharded", "whole"))
    assert sharded.keys() == whole.keys()
    start = torch.load(folder / "work_dirs" / "whole" / "epoch_1.pth", weights_only=False)["state_dict"]
    moved = 0
    for name, value in whole.items():
        assert sharded[name].shape == value.shape, name
        torch.testing.assert_close(sharded[name], value, rtol=1e-3, atol=2e-5, msg=name)
        moved += not torch.equal(value, start[name])
    assert moved > 30
    assert figures(said["sharded"], "loss") == pytest.approx(figures(said["whole"], "loss"), rel=1e-3)
    norms = figures(said["sharded"], "grad_norm")
    assert norms == pytest.approx(figures(said["whole"], "grad_norm"), rel=1e-3) and min(norms) > 0.05
    assert figures(said["sharded"], "CIDEr")[:2] == pytest.approx(figures(said["whole"], "CIDEr"), abs=1e-2)
    assert not list((folder / "work_dirs" / "sharded").glob(".*.tmp"))
    # At its end it tested the best one, as a captioner that is not sharded.
    report = json.loads((folder / "work_dirs" / "sharded" / "test_metrics.json").read_text())
    assert "best_CIDEr_epoch_" in report["checkpoint"] and report["metrics"]["length"] > 0


@pytest.mark.slow
def test_a_checkpoint_is_tested_on_one_process_and_resumed_on_two(folder, trained):
    found = {}
    for name in ("sharded", "whole"):
        checkpoint = folder / "work_dirs" / name / "epoch_2.pth"
        run_command(folder, "test", f"{name}.py", checkpoint, "--work-dir", f"test_{name}")
        images = json.loads((folder / f"test_{name}" / "test_captions.json").read_text())["images"]
        found[name] = {key: image["hypothesis"] for key, image in images.items()}
    assert len(found["whole"]) == 12 and found["sharded"] == found["whole"]
    distributed(folder, "sharded", "--work-dir", "resumed", "--cfg-options", "train_cfg.max_epochs=1")
    said = distributed(folder, "sharded", "--work-dir", "resumed", "--resume")
    assert "Epoch(train) [2]" in said and "Epoch(train) [1]" not in said
    for name in ("sharded", "whole"):  # one of them is the best, and was saved twice
        places = [load(folder, name, epoch)["meta"] for epoch in (1, 2)]
        assert [(p["epoch"], p["iter"]) for p in places] == [(1, 4), (2, 8)]
    resumed = torch.load(folder / "resumed" / "epoch_2.pth", weights_only=False)
    for name, value in of(trained[1]["sharded"]).items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_it_says_how_it_is_started(folder):
    said = run_command(folder, "train", "sharded.py", "--work-dir", "alone", status=1)
    assert "dist_train.sh" in said
    options = ("--cfg-options", "runner_type=Runner")
    said = run_command(folder, "train", "sharded.py", "--work-dir", "alone", *options, status=1)
    assert "runner_type" in said


@pytest.mark.slow
def test_a_dry_run_counts_all_shards(folder):
    said = distributed(folder, "sharded", "--work-dir", "dry", "--dry-run")
    import transformers

    decoder = transformers.GPT2LMHeadModel.from_pretrained(folder / "gpt2")
    count = sum(p.numel() for p in decoder.parameters())
    found = int(re.search(r"parameters    ([\d,]+) trained", said)[1].replace(",", ""))
    assert count < found < count + 20_000 and "2 ranks" in said and not (folder / "dry").exists()
    assert "TextMemoryProjection: 30 rows of 32" in said  # whole on each rank
