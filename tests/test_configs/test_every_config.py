"""Every shipped config, found by looking: its captioner builds, learns from a batch, and captions; and metafiles and READMEs.

Stores are small and random, of the width that the config's projector takes; encoders are replaced by one of random
matrices. Sizes are made small; necks, datasets, losses, optimizer wrapper and prompt stay as they are.
"""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from synthcap_mm.apis.experiments import Ledger, read_table

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts
)
METHODS = sorted(p for p in (ROOT / "configs").iterdir() if p.is_dir() and p.name not in ("_base_", "__pycache__"))


@pytest.fixture(scope="session")
def stores(tmp_path_factory, tiny):
    """Width → paths of a store of pairs and one of photos."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.synthesis.photos import PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    made = {}

    def make(width):
        if width not in made:
            init_default_scope("synthcap_mm")
            root = tmp_path_factory.mktemp(f"width{width}")
            encoder, tagger = {"type": "TinyEncoder", "dim": width}, {"type": "TinyTagger"}
            Synthesis(
                store=str(root / "pairs"), captions={"type": "TinyCaptions", "num": 60}, encoder=encoder,
                generator={"type": "TinyPainter"}, tag_provider=tagger, refine={"steps": 2, "lr": 0.01, "bank_size": 16},
                tokenizer={"kind": "train", "vocab_size": 300}, holdout=0.2, image_batch=32,
            ).run()  # fmt: skip
            PhotoStore(str(root / "photos"), {"type": "TinyPhotos"}, encoder, tagger).run()
            made[width] = (str(root / "pairs"), str(root / "photos"))
        return made[width]

    return make


def replaced(value, names, encoder):
    """The same, with other stores and another encoder."""
    if isinstance(value, dict):
        if value.get("type") in ("MiniCLIP", "OpenCLIPBackbone"):
            return ConfigDict(encoder)
        return ConfigDict({k: replaced(v, names, encoder) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return [replaced(v, names, encoder) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", CONFIGS)
def test_it_builds_learns_and_captions(name, stores):
    from synthcap_mm.registry import DATASETS, MODELS
    from synthcap_mm.synthesis.curation import Curation

    cfg = Config.fromfile(ROOT / "configs" / name)
    width = cfg.model.necks[-1].in_dim
    pairs, photos = stores(width)
    names = {entry.store: photos for entry in cfg.get("photo_stores", [])} | {cfg.model.store: pairs}
    cfg = replaced(cfg._cfg_dict, names, {"type": "TinyEncoder", "dim": width})
    # A pretrained decoder and its tokenizer are files that are not at hand; tests/test_engine has one in their format.
    if cfg.model.head.pop("pretrained", None):
        del cfg.model.data_preprocessor["tokenizer"]
    cfg.model.head.update(width=32, layers=1, heads=2, generation={"num_beams": 2})
    cfg.model.necks[-1].width = 32
    if cfg.train_dataloader.dataset.get("pairs", "default") not in ("default", None):
        report = Curation(store=pairs, **cfg.curation).run()
        assert report["kept"] > 0
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    optim_wrapper = Runner.build_optim_wrapper(type("R", (), {"model": model})(), cfg.optim_wrapper)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [dataset[i] for i in range(min(16, len(dataset)))]
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    losses = model.train_step(samples, optim_wrapper)
    assert torch.isfinite(losses["loss"]) and losses["loss_caption"] > 0
    # All that learns has learnt: a part without a gradient would stop distributed training.
    for _ in range(2):
        model.train_step(samples, optim_wrapper)
    still = [k for k, v in model.named_parameters() if v.requires_grad and torch.equal(v, before[k])]
    assert still == []
    model.eval()
    for loader in ("val_dataloader", "test_dataloader"):
        if loader not in cfg:
            continue
        data = DATASETS.build(cfg[loader].dataset)
        out = model.val_step([data[i] for i in range(3)])
        assert all(isinstance(sample.pred_caption, str) for sample in out)


FULL_SCALE = [n for n in CONFIGS if "synthcap" in n and not any(w in n for w in ("mini", "custom", "gpt2"))]
# GPT-2 XL's, which takes two processes, is in tests/test_engine/test_decoder_fsdp_strategy.py


@pytest.mark.parametrize("name", FULL_SCALE)
def test_a_full_scale_config_has_a_dry_run(name, stores, tmp_path):
    from synthcap_mm.apis.dry_run import dry_run
    from synthcap_mm.datasets import SynthPairDataset

    cfg = Config.fromfile(ROOT / "configs" / name)
    width = cfg.model.necks[-1].in_dim
    pairs, photos = stores(width)
    names = {cfg.photo_stores[0].store: photos, cfg.model.store: pairs}
    cfg = Config(replaced(cfg._cfg_dict, names, {"type": "TinyEncoder", "dim": width}))
    cfg.model.head.update(width=32, layers=1, heads=2, generation={"num_beams": 2})
    cfg.model.necks[-1].width = 32
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    cfg.work_dir = str(tmp_path / "work")
    cfg.experiment_name = f"dry_run_of_{name}"
    cost = dry_run(cfg)
    pictures = len(SynthPairDataset(pairs, split="train"))
    assert (cost.batch, cost.epochs) == (16, 10) and cost.steps == 10 * -(-pictures // 16)
    ((neck, rows, dim, _),) = cost.memories
    assert (neck, dim) == ("TextMemoryProjection", width) and rows > 0
    assert cost.trained > 0 and cost.val_batch > 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", METHODS, ids=lambda p: p.name)
def test_a_methods_folder_tells_of_each_of_its_configs(folder):
    configs = {p.relative_to(ROOT).as_posix() for p in folder.glob("*.py")}
    meta = yaml.safe_load((folder / "metafile.yml").read_text(encoding="utf-8"))
    (collection,) = meta["Collections"]
    assert collection["Paper"]["URL"].startswith("https://arxiv.org/abs/") and (ROOT / collection["README"]).is_file()
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


def test_the_metafiles_figures_are_the_tables():
    table = read_table("mini")
    rows = Ledger(ROOT / "docs" / "results" / "mini.csv").rows
    runs = {f"configs/{run.config}": name for name, run in table.runs.items() if not run.options}
    told = {}
    for folder in METHODS:
        for model in yaml.safe_load((folder / "metafile.yml").read_text(encoding="utf-8"))["Models"]:
            for result in model.get("Results", []):
                assert (result["Task"], result["Dataset"]) == ("Image Captioning", "mini-world")
                told[model["Config"]] = result["Metrics"]
    assert set(told) == set(runs)  # every config that a row is of, and no other
    for config, metrics in told.items():
        for metric, value in metrics.items():
            own = [float(row[metric]) for row in rows if row["run"] == runs[config]]
            assert value == pytest.approx(sum(own) / len(own), abs=0.0501), (config, metric)


def test_the_index_of_models_names_every_method():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text(encoding="utf-8"))
    assert index["Import"] == [f"configs/{folder.name}/metafile.yml" for folder in METHODS]


def test_what_nouns_the_mini_world_has():
    from synthcap_mm.miniscenes.language import NOUNS

    words = (ROOT / "configs" / "_base_" / "miniscenes_nouns.txt").read_text().split("\n")
    assert words[:-1] == [singular for nouns in NOUNS.values() for singular, _, _ in nouns] and words[-1] == ""
