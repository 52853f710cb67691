"""Tables of experiments: runs that are compared with each other, read from a json file; and what decides their figures."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from synthcap_mm import registry  # noqa: F401 - written configs keep the order of their keys
from synthcap_mm.config_files import resolve_config, shipped_dir
from synthcap_mm.errors import UserError

#: The folder of the published tables.
TABLES = Path(__file__).resolve().parent / "tables"
#: Fields of a config that do not change a run's figures; but see :func:`_deciding`.
_NEUTRAL = (
    "work_dir", "randomness", "default_hooks", "custom_hooks", "visualizer", "log_processor", "log_level", "inputs",
    "launcher", "resume", "load_from", "gallery", "tensorboard", "env_cfg", "config_name", "test_best",
    "auto_synthesize", "custom_imports",
)  # fmt: skip
#: Fields, of the rest, that do not change a training; its photos count where it reads them (:func:`training_hash`).
_ONLY_TEST = ("test_dataloader", "test_evaluator", "test_cfg", "test_photos", "val_photos")


@dataclass(frozen=True)
class Run:
    """A line of a table.

    Attributes:
        name: its key.
        title: for people.
        config: path, relative to the table's file or to the current folder, or name of a shipped config.
        options: settings over the config's, as ``--cfg-options`` gives them.
        of: name of the run whose checkpoints are used under this config (another memory, other beams); then nothing
            is trained here.
        reads: name of a run whose stores this one reads besides its own config's (another memory).
        x: place on the plot's axis.
    """

    name: str
    title: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    of: str | None = None
    reads: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """Runs that are compared with each other.

    Attributes:
        name: the file's name.
        asked: what the command line calls it: its name, or the file's path.
        title: heading.
        note: what is to be known before the figures are read.
        runs: by name, in order.
        reference: name of the run that others are compared with.
        metrics: columns, the first one compared and plotted; empty: all that were computed, CIDEr first.
        seeds: how many, from 0.
        compare: more pairs of runs to be compared, the second one subtracted from the first.
        test: ``'all'``: each run is tested once; ``'best'``: only the run with the best held-out mean, and the
            reference.
        tests: names (last parts) of the stores of ``photo_stores`` that are tested on; empty: the config's test set.
        x: the axis' title, if runs have places on one.
        prepare: command that makes the stores, where configs do not; ``{python}`` and environment variables are
            filled in.
        environment: variables that must be set.
    """

    name: str
    asked: str
    title: str
    note: str
    runs: dict[str, Run]
    reference: str
    metrics: tuple[str, ...]
    seeds: int = 3
    compare: tuple[tuple[str, str], ...] = ()
    test: str = "all"
    tests: tuple[str, ...] = ("test",)
    x: str | None = None
    prepare: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


def table_names() -> list[str]:
    """Names of the published tables, sorted."""
    return sorted(path.stem for path in TABLES.glob("*.json"))


def read_table(name: str) -> Table:
    """A table by its name, by the path of its json file, or of one config: a run of it.

    Raises:
        UserError: if there is no such table or config, or the table does not name what exists.
    """
    file = Path(name) if name.endswith(".json") else TABLES / f"{name}.json"
    if not file.is_file():
        return _table_of_config(name)
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        runs = {key: Run(key, **value) for key, value in entry.pop("runs").items()}
        runs = {key: Run(**{**vars(run), "config": _find_config(run.config, file)}) for key, run in runs.items()}
        lists = {k: tuple(entry[k]) for k in ("metrics", "tests", "prepare", "environment") if k in entry}
        lists["compare"] = tuple((a, b) for a, b in entry.get("compare", ()))
        table = Table(file.stem, name, runs=runs, **{**entry, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a table of experiments: {error!r}") from error
    named = {table.reference, *(n for pair in table.compare for n in pair)}
    named |= {n for run in runs.values() for n in (run.of, run.reads) if n is not None}
    # Found out here, not after hours of training.
    if named - set(runs):
        raise UserError(f"{file}: {', '.join(sorted(named - set(runs)))} is none of its runs ({', '.join(runs)})")
    if any(runs[run.of].of for run in runs.values() if run.of):
        raise UserError(f"{file}: a run's `of` names a run that trains")
    return table


def _table_of_config(name: str) -> Table:
    try:
        config = resolve_config(name)
    except UserError as error:
        raise UserError(f"{name} is none of the tables {', '.join(table_names())}, and no config: {error}") from error
    run = Run(config.stem, config.stem, str(config))
    return Table(config.stem, name, config.stem, "", {run.name: run}, run.name, metrics=(), tests=())


def _find_config(config: str, table: Path) -> str:
    beside = table.parent / config
    return str(beside.resolve() if beside.is_file() else resolve_config(config))


def config_of(run: Run, seed: int = 0) -> Config:
    """The run's config with its settings; the test is not part of the training."""
    cfg = Config.fromfile(resolve_config(run.config), import_custom_modules=False)
    cfg.merge_from_dict(run.options)
    cfg.randomness = {"seed": seed}
    cfg.test_best = False
    return cfg


def _canonical(value: Any, roots: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _canonical(v, roots) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_canonical(v, roots) for v in value]
    if isinstance(value, str):
        # Whole folders at the start, the innermost first: one may lie in another, or be called "data".
        for name, root in sorted(roots.items(), key=lambda item: -len(item[1])):
            if value == root or value.startswith(root + "/"):
                return f"<{name}>{value[len(root) :]}"
    return value


@functools.cache
def _usual_hooks() -> list[dict[str, Any]]:
    file = shipped_dir("configs") / "_base_" / "default_runtime.py"
    return Config.fromfile(file, import_custom_modules=False).custom_hooks


def _deciding(cfg: Config) -> dict[str, Any]:
    """The fields that may change a run's figures."""
    settings = {k: v for k, v in cfg._cfg_dict.items() if k not in _NEUTRAL}
    if cfg.get("load_from"):
        settings["load_from"] = cfg.load_from
    hooks = [hook for hook in cfg.get("custom_hooks") or () if hook not in _usual_hooks()]
    return {**settings, "custom_hooks": hooks} if hooks else settings


def config_hash(cfg: Config, of: str | None = None) -> str:
    """Ten hexadecimal digits of what decides a run's figures: all settings but the seed, logging and folders.

    Args:
        cfg: of :func:`config_of`.
        of: hash of the run whose checkpoints are used. Default ``None``: it has its own.
    """
    return _digest([_deciding(cfg), {} if of is None else {"of": of}])


def training_hash(cfg: Config) -> str:
    """Ten hexadecimal digits of what decides a training: :func:`config_hash` without what is only tested on.

    Tables that test one training in several ways, or share it with another table, train once.

    Args:
        cfg: of :func:`config_of`.
    """
    settings = {k: v for k, v in _deciding(cfg).items() if k not in _ONLY_TEST}
    photos = settings.pop("photo_stores", None) or []
    text = json.dumps(settings, default=str)
    settings["photo_stores"] = [entry for entry in photos if json.dumps(str(entry["store"])) in text]
    return _digest([settings])


def _digest(settings: list[Any]) -> str:
    # Folders that a config may take from the environment, by the variables' names.
    roots = {name: os.environ[name].rstrip("/") for name in sorted(os.environ) if name.startswith("SYNTHCAP_")}
    roots = {"0": str(shipped_dir("configs")), **{name: root for name, root in roots.items() if root}}
    text = json.dumps(_canonical(settings, roots), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
