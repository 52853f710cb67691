"""Every shipped config, found by looking: its parts build, learn from a batch, and caption; and metafiles and READMEs.

Stores are small and random, of the width that the config's projector takes; encoders are replaced by one of random
matrices. Sizes are made small; necks, datasets, losses, optimizer wrapper and prompt stay as they are.
"""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from small_configs import WIDTH, small

from synthcap_mm.engine.dry_run import dry_run
from synthcap_mm.registry import DATASETS, HOOKS, METRICS, MODELS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts
)
METHODS = sorted(p for p in (ROOT / "configs").iterdir() if p.is_dir() and p.name not in ("_base_", "__pycache__"))


def types(value):
    """Every ``type`` that a part of a config names."""
    if isinstance(value, dict):
        yield from [value["type"]] if isinstance(value.get("type"), str) else []
        value = value.values()
    for item in value if not isinstance(value, str) and hasattr(value, "__iter__") else ():
        yield from types(item)


@pytest.mark.parametrize("name", CONFIGS)
def test_its_captioner_optimizer_and_data_build(name, stores):
    cfg = small(name, stores)
    torch.manual_seed(0)
    runner = type("R", (), {"model": MODELS.build(cfg.model)})()
    Runner.build_optim_wrapper(runner, cfg.optim_wrapper)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if loader in cfg:
            assert len(DATASETS.build(cfg[loader].dataset)) > 0
    # Captions, encoders, generators, metrics and hooks, which are not built here, exist by their names.
    whole = Config.fromfile(ROOT / "configs" / name)
    fields = ("synthesis", "photo_stores", "val_evaluator", "test_evaluator", "custom_hooks")
    registries = (DATASETS, HOOKS, METRICS, MODELS)
    for kind in (kind for field in fields for kind in types(whole.get(field, {}))):
        assert any(registry.get(kind) for registry in registries), kind


#: The mini-world's config of each method, in which it is what it is at full size.
EACH_METHOD = {"synthcap_mini.py", *(f"{folder.name}/{folder.name}_mini.py" for folder in METHODS),
               "synthcap/synthcap_plus_mini.py"}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EACH_METHOD else pytest.mark.slow) for n in CONFIGS])
def test_it_learns_and_captions(name, stores):
    cfg = small(name, stores)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    optim_wrapper = Runner.build_optim_wrapper(type("R", (), {"model": model})(), cfg.optim_wrapper)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [dataset[i] for i in range(min(16, len(dataset)))]
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    for _ in range(3):
        losses = model.train_step(samples, optim_wrapper)
        assert torch.isfinite(losses["loss"]) and losses["loss_caption"] > 0
    # All that learns has learnt: a part without a gradient would stop distributed training.
    still = [k for k, v in model.named_parameters() if v.requires_grad and torch.equal(v, before[k])]
    assert still == []
    model.eval()
    for loader in ("val_dataloader", "test_dataloader"):
        if loader in cfg:
            data = DATASETS.build(cfg[loader].dataset)
            out = model.val_step([data[i] for i in range(3)])
            assert all(isinstance(sample.pred_caption, str) for sample in out)


@pytest.mark.parametrize("epochs", [3, 20])
@pytest.mark.parametrize("name", ["synthcap_mini.py", "synthcap_custom.py"])
def test_its_schedule_ends_with_the_training(name, epochs, stores, tmp_path):
    cfg = small(name, stores)
    cfg.train_dataloader.update(batch_size=8, num_workers=0, persistent_workers=False)
    cfg.merge_from_dict({"train_cfg.max_epochs": epochs, "work_dir": str(tmp_path)})
    cfg.param_scheduler[0].update(by_epoch=False, convert_to_iter_based=False, end=5)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.experiment_name = f"schedule_of_{name}_{epochs}"
    cost = dry_run(cfg)
    full = cfg.optim_wrapper.optimizer.lr
    first, highest, last = cost.rates
    assert cost.epochs == epochs and first[1] < 0.2 * full and highest[1] > 0.7 * full
    assert last == (cost.steps - 1, pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize(
    "name", ["synthcap_coco.py", pytest.param("synthcap/synthcap_vit-l14_coco.py", marks=pytest.mark.slow)]
)
def test_a_full_scale_config_has_a_dry_run(name, stores, tmp_path):
    cfg = small(name, stores)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    cfg.work_dir = str(tmp_path / "work")
    cfg.experiment_name = f"dry_run_of_{name}"
    cost = dry_run(cfg)
    pictures = len(DATASETS.build(cfg.train_dataloader.dataset))
    assert (cost.batch, cost.epochs) == (16, 10) and cost.steps == 10 * -(-pictures // 16)
    ((neck, rows, dim),) = cost.memories
    assert (neck, dim) == ("TextMemoryProjection", WIDTH) and rows > 0
    assert cost.trained > 0 and cost.val_batch > 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", METHODS, ids=lambda p: p.name)
def test_a_methods_folder_tells_of_each_of_its_configs(folder):
    configs = {p.relative_to(ROOT).as_posix() for p in folder.glob("*.py")}
    meta = yaml.safe_load((folder / "metafile.yml").read_text(encoding="utf-8"))
    (collection,) = meta["Collections"]
    assert (
        collection["Paper"]["URL"].startswith(("https://arxiv.org/abs/", "https://openaccess.thecvf.com/"))
        and (ROOT / collection["README"]).is_file()
    )
    assert {m["In Collection"] for m in meta["Models"]} == {collection["Name"]}
    listed = [m["Config"] for m in meta["Models"]]
    assert len({m["Name"] for m in meta["Models"]}) == len(listed) == len(set(listed))
    # The flagship's own configs are names that users type, so they lie outside.
    assert {c for c in listed if c.startswith(f"configs/{folder.name}/")} == configs
    assert all((ROOT / c).is_file() for c in listed)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert [c for c in configs if Path(c).name not in text] == []
    assert "## What differs" in text and "```bibtex" in text and collection["Paper"]["URL"] in text
    assert collection["Code"] and all((ROOT / file).is_file() for file in collection["Code"])
    assert {"CLIP", "GPT-2"} <= set(collection["Metadata"]["Architecture"])


def test_the_index_of_models_names_every_method():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text(encoding="utf-8"))
    assert index["Import"] == [f"configs/{folder.name}/metafile.yml" for folder in METHODS]


def test_what_nouns_the_mini_world_has():
    from synthcap_mm.miniscenes.language import NOUNS

    words = (ROOT / "configs" / "_base_" / "miniscenes_nouns.txt").read_text().split("\n")
    assert words[:-1] == [singular for nouns in NOUNS.values() for singular, _, _ in nouns] and words[-1] == ""
