"""Fields of configs with values that nobody means."""

from __future__ import annotations

import contextlib
import copy
import random
from pathlib import Path
from typing import Any

from .making import experiment, in_other_process, make_stores
from .mutations import look_up, places, set_at
from .running import Change, Kind
from .watch import ROOT

_CONFIGS = ("synthcap_mini.py", "synthcap/synthcap_plus_mini.py", "synthcap/synthcap_mini_moments.py", "capdec/capdec_mini.py",
            "decap/decap_mini.py", "diffusion_bridge/diffusion_bridge_mini.py", "ifcap/ifcap_mini.py", "sync/sync_mini.py", "tomcap/tomcap_mini.py", "viecap/viecap_mini.py",
            "pcmnet_loss/pcmnet_loss_mini.py")  # fmt: skip
#: Sections whose fields are looked at; a wrong type in ours must be refused, MMEngine and torch do as they do.
_OURS = ("model", "synthesis", "photo_stores", "curation", "val_evaluator", "test_evaluator", "custom_hooks")
_THEIRS = ("train_dataloader", "val_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg",
           "default_hooks", "randomness")  # fmt: skip
_ENCODER = {"type": "TinyEncoder", "dim": 256}


def _make(folder: Path) -> None:
    make_stores(folder / "made", encoder=_ENCODER)


class Configs(Kind):
    name = "config"
    variants = _CONFIGS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        in_other_process(_make, folder)
        self.also = [folder / "made"]
        self.configs = {name: self._small(name) for name in _CONFIGS}
        self.path: tuple = ()
        self.value: Any = None
        self.wrong_type = False

    def _small(self, name: str) -> dict[str, Any]:
        """A shipped config with small stores and sources."""
        from mmengine.config import Config

        cfg = Config.fromfile(ROOT / "configs" / name).to_dict()
        made = self.folder / "made"
        names = {entry["store"]: str(made / "photos") for entry in cfg.get("photo_stores", [])}
        names[cfg["model"]["store"]] = str(made / "pairs")
        cfg = _replaced(cfg, names)
        cfg["synthesis"]["captions"]["num"] = 6
        for entry in cfg.get("photo_stores", []):
            entry["photos"]["num"] = 2
        cfg["model"]["head"] = {**cfg["model"]["head"], "width": 16, "layers": 1, "heads": 2}
        cfg["train_dataloader"]["dataset"].pop("pairs", None)  # curated ones
        return {**cfg, "work_dir": ".", "log_level": "ERROR", "config_name": name}

    def lay(self, case: Path, rng: random.Random | None = None) -> Path:
        self.variant = self.variant if rng is None else rng.choice(self.variants)
        (case / "a/b/input").mkdir()
        self.path = () if rng is None else self.path
        return case / "a/b/input"

    def change(self, case: Path, rng: random.Random) -> Change:
        self.lay(case, rng)
        cfg = self.configs[self.variant]
        section = rng.choice([name for name in (*_OURS * 3, *_THEIRS) if cfg.get(name)])
        self.path = (section, *rng.choice([*places(cfg[section])]))
        old = look_up(cfg, self.path)
        wrong = [value for value in ("wrong", 3.5, -7, [], ["a"], {}, {"a": 1}, True) if not _alike(old, value)]
        doubtful = [None, -1, 0, 1, 2, 0.5, -0.5, float("nan"), float("inf"), "", "nowhere/x", [0], {"type": "Nobody"},
                    10**30]  # fmt: skip
        if rng.random() < 0.15:  # a field that is not there
            self.path = (*self.path[:-1], "nobodys_field") if isinstance(self.path[-1], str) else self.path
        wrong_one = rng.random() < 0.5 and bool(wrong)
        self.value = rng.choice(wrong if wrong_one else doubtful)
        ours = section in _OURS or "dataset" in self.path
        self.wrong_type = (wrong_one and ours and old is not None) or (self.path[-1] == "nobodys_field" and ours)
        return Change(f"{self.variant} {'.'.join(map(str, self.path))}={self.value!r} (was {str(old)[:40]!r})", False)

    def use(self, folder: Path) -> Any:
        from mmengine.config import Config

        from synthcap_mm.config_fields import check_fields

        cfg = copy.deepcopy(self.configs[self.variant])
        cfg = Config(set_at(cfg, self.path, self.value) if self.path else cfg)
        cfg.experiment_name = experiment()
        check_fields(cfg)
        section = self.path[0] if self.path else None
        if section in (None, "synthesis", "photo_stores", "curation"):
            _build_stores(cfg, section)
        if section not in ("synthesis", "photo_stores", "curation"):
            _build_training(cfg, section)
        return "built"

    def names(self, error: BaseException) -> bool:
        """Whether a refusal names the field."""
        field = next((key for key in reversed(self.path) if isinstance(key, str)), "")
        return field in str(error)

    def wrong(self, result: Any) -> str | None:
        either = self.path[-1:] == ("refine",)  # True, or settings
        return f"{self.value!r} was taken" if self.wrong_type and not either else None


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        if value.get("type") in ("MiniCLIP", "OpenCLIPBackbone", "SentenceEncoder"):
            return dict(_ENCODER)
        return {key: _replaced(one, names) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def _alike(old: Any, new: Any) -> bool:
    """Whether a value is of the type of another; numbers and lists count as one each."""
    kinds = (bool,), (int, float), (str,), (list, tuple), (dict,)
    of = [next((n for n, kind in enumerate(kinds) if isinstance(value, kind)), None) for value in (old, new)]
    return of[0] == of[1] or {*of} == {0, 1}


def _build_stores(cfg: Any, section: str | None) -> None:
    """What `synthesize`, `encode-images` and `curate` build before they make anything."""
    from synthcap_mm.missing_inputs import curation_settings
    from synthcap_mm.registry import MODELS
    from synthcap_mm.store import Store
    from synthcap_mm.synthesis.curation import Curation
    from synthcap_mm.synthesis.photos import SHARED, PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    if section in (None, "synthesis"):
        synthesis = Synthesis(**{**cfg.synthesis, "store": "new"} if cfg.synthesis.get("store") else cfg.synthesis)
        captions = synthesis.captions
        _ = synthesis.tables
        pictures = None
        for part in ("encoder", "generator", "tag_provider"):
            if cfg.synthesis.get(part) is not None:
                built = MODELS.build(cfg.synthesis[part])
                if part == "generator" and hasattr(built, "generate"):
                    pictures = built.generate([captions[0].text], [0])
                if part == "tag_provider" and pictures is not None:
                    built.detect(pictures)
    if section in (None, "photo_stores"):
        models = {name: cfg.synthesis[name] for name in SHARED if name in cfg.synthesis}
        for entry in cfg.get("photo_stores", []):
            photos = PhotoStore(**{**models, **entry}).photos
            photos.load(0)
    if section in (None, "curation") and cfg.get("curation"):
        Curation(**curation_settings(cfg)).recipe_in(Store.open(cfg.model.store))


def _build_training(cfg: Any, section: str | None) -> None:
    """What `train` builds before its first step, a loss, and a caption."""
    import torch

    from synthcap_mm.engine.runners import build_runner
    from synthcap_mm.engine.shared_encoder import share_encoder
    from synthcap_mm.engine.testing import prepare_evaluators
    from synthcap_mm.registry import DATASETS

    share_encoder(cfg)
    prepare_evaluators(cfg)
    runner = build_runner(cfg)
    train = runner.train_loop  # dataloader and dataset are built with it
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    for name in ("val", "test"):
        if section in (None, f"{name}_dataloader", f"{name}_evaluator"):
            loop = getattr(runner, f"{name}_loop")
            next(iter(loop.dataloader))
    if section in (None, "model"):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        model, rows = runner.model, [dataset[0], dataset[1]]
        with torch.no_grad(), contextlib.suppress(StopIteration):
            model.train()
            model(**model.data_preprocessor(rows, True), mode="loss")
            model.eval()
            model(**model.data_preprocessor(rows, False), mode="predict")
    elif section == "train_dataloader":
        next(iter(train.dataloader))
