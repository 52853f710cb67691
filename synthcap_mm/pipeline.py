"""The flow of a config, from captions to test metrics. Read it from top to bottom.

========== ===================================== ==============================================
step       reads                                 makes
========== ===================================== ==============================================
synthesize ``synthesis``                         a store of pairs: texts, images, features, tags
encode     ``photo_stores``                      stores of the photos of validation and test sets
curate     ``curation``, the store of pairs      another pairs table in it
train      the dataloaders, ``model``, schedule  checkpoints in the work dir
test       ``test_dataloader``, a checkpoint     metrics, captions and a gallery in the work dir
========== ===================================== ==============================================

Each step makes only what is missing. The parts are in :mod:`~synthcap_mm.synthesis` (a file a stage),
:mod:`~synthcap_mm.store`, :mod:`~synthcap_mm.datasets`, :mod:`~synthcap_mm.models` and MMEngine's ``Runner``.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.apis.dry_run import dry_run as measure_training
from synthcap_mm.apis.missing_inputs import missing_inputs, unread_store
from synthcap_mm.apis.runners import build_runner
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import CaptionMetric
from synthcap_mm.files import write_json
from synthcap_mm.store import Store
from synthcap_mm.store.store import view_file
from synthcap_mm.synthesis.curation import Curation, report_table
from synthcap_mm.synthesis.dry_run import measure_synthesis
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.run import Worker
from synthcap_mm.synthesis.synthesis import Synthesis

#: Number of a task and how many there are.
Task = tuple[int, int]


# ---- captions → a store of pairs
def synthesize(
    cfg: Config,
    only: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    task: Task | None = None,
    redraw: bool = False,
) -> dict[str, Any]:
    """Make the store of pairs that ``cfg.synthesis`` describes.

    Args:
        cfg: the config.
        only: a single stage, ``'text'``, ``'images'``, ``'tags'`` or ``'refine'``. Default ``None``: all.
        limit: the first captions only, as another view of the store. Default ``None``: all.
        dry_run: say what would be done, measure a few batches, and leave no store. Default ``False``.
        task: make the shards of one of several tasks only. Default ``None``.
        redraw: draw pictures again, where settings changed that they depend on. Default ``False``.

    Returns:
        Counts; see :meth:`Synthesis.run`. Nothing after a dry run.

    Raises:
        UserError: if files are missing, a setting is wrong, or pictures would be drawn again.
        NotYet: if what other tasks make is still missing.
    """
    start_logging(cfg)
    require_inputs(cfg, "synthesis")
    synthesis = Synthesis(**{**section(cfg, "synthesis"), **({} if limit is None else {"limit": limit})})
    if dry_run:
        measure_synthesis(synthesis)
        return {}
    counts = synthesis.run(only, Worker.of_this_process(task), redraw)
    print_log(f"synthesize: {_listed(counts)}; store: {synthesis.view}", logger="current")
    return counts


# ---- photos of a test set → a store
def encode_images(cfg: Config, task: Task | None = None) -> dict[str, dict[str, int]]:
    """Encode and tag the real photos of each entry of ``cfg.photo_stores``.

    Args:
        cfg: the config. The encoder and the tag provider are those of ``cfg.synthesis``.
        task: see :func:`synthesize`. Default ``None``.

    Returns:
        Counts by store; see :meth:`PhotoStore.run`.
    """
    start_logging(cfg)
    require_inputs(cfg, "photo_stores")
    models = {name: cfg.synthesis.get(name) for name in ("encoder", "tag_provider")}
    results = {}
    for entry in section(cfg, "photo_stores"):
        results[entry["store"]] = counts = PhotoStore(**{**models, **entry}).run(Worker.of_this_process(task))
        print_log(f"encode: {_listed(counts)}; store: {entry['store']}", logger="current")
    return results


# ---- pairs → better pairs
def curate(cfg: Config, task: Task | None = None) -> dict[str, Any]:
    """Make the pairs table that ``cfg.curation`` describes, in the store of ``cfg.synthesis``.

    ``cfg.curation`` has the arguments of :class:`Curation` (``store`` may be left out), or is
    a list: its ``steps`` alone.

    Args:
        cfg: the config.
        task: see :func:`synthesize`. Default ``None``.

    Returns:
        The report; see :meth:`Curation.run`.
    """
    start_logging(cfg)
    settings = section(cfg, "curation")
    settings = dict(settings) if isinstance(settings, dict) else {"steps": settings}
    if unknown := {*settings} - {*inspect.signature(Curation).parameters}:
        raise UserError(f"curation has no field {', '.join(sorted(unknown))}")
    settings.setdefault("store", pairs_store(cfg))
    curation = Curation(**settings)
    report = curation.run(Worker.of_this_process(task))
    print_log(
        f"curate: {report_table(report)}\n  to train on it: train_dataloader.dataset.pairs={curation.name}",
        logger="current",
    )
    return report


# ---- pairs → a captioner
def train(cfg: Config, dry_run: bool = False) -> dict[str, float]:
    """Train and validate; where the config says so, make the stores first and test the best checkpoint last.

    Args:
        cfg: the config; ``auto_synthesize``, ``test_best`` and ``tensorboard`` are its switches (default ``False``).
            With ``auto_synthesize`` the pairs of ``curation`` are made too, if they are trained on.
        dry_run: take a few steps, say what the training would cost, and leave nothing behind; no store is made
            either. Default ``False``.

    Returns:
        The test metrics, if ``cfg.test_best``, else nothing; nothing after a dry run.

    Raises:
        UserError: if a store is missing or made by other settings, or TensorBoard is asked for and not installed.
    """
    start_logging(cfg)
    if cfg.get("auto_synthesize") and not dry_run:
        if unread := unread_store(cfg):
            raise UserError(unread)
        synthesize(cfg)
        if cfg.get("photo_stores"):
            encode_images(cfg)
        if _trains_on_curated(cfg):
            curate(cfg)
        barrier()
    require_inputs(cfg, "train")
    check_store(cfg)
    _switch_tensorboard_on(cfg)
    prepare_evaluators(cfg)
    if dry_run:
        cost = measure_training(cfg)
        print_log(f"a training of {cfg.config_name}:\n{cost.describe()}\nNothing was kept: this was a dry run.",
                  logger="synthcap_mm")  # fmt: skip
        return {}
    runner = build_runner(cfg)
    runner.train()
    if not cfg.get("test_best"):
        return {}
    # Rank 0 alone writes checkpoints, and the last epoch's may be the best: it must be there before any rank reads it.
    barrier()
    best = _best_checkpoint(runner)
    print_log(f"testing {best} on the test split, once", logger="current")
    if not isinstance(runner, Runner):
        # Any runner loads the checkpoint; one that needs no strategy tests, as the command `test` does.
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = f"{runner.experiment_name}_test"
        runner = Runner.from_cfg(cfg)
    return run_test(runner, cfg, best)


# ---- a captioner → metrics
def test(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Metrics of a checkpoint on the test split.

    Raises:
        UserError: if the checkpoint or a store is missing, or the config has no test set.
    """
    if cfg.get("test_dataloader") is None or cfg.get("test_evaluator") is None:
        raise UserError(f"{cfg.config_name} has no test set: it needs test_dataloader, test_evaluator and test_cfg")
    if not Path(checkpoint).is_file():
        raise UserError(f"there is no checkpoint at {checkpoint}")
    require_inputs(cfg, "test")
    prepare_evaluators(cfg)
    return run_test(Runner.from_cfg(cfg), cfg, checkpoint)


def run_test(runner: Runner, cfg: Config, checkpoint: str) -> dict[str, float]:
    """Test a checkpoint once, and write what was found into the runner's work folder.

    ``test_metrics.json`` has the test's metrics beside those of the validation that chose the epoch, and what was
    skipped and why; ``test_captions.json`` every caption with its references and scores; ``gallery.png`` some photos.

    Args:
        runner: made from ``cfg``.
        cfg: the config.
        checkpoint: file to load.

    Returns:
        The metrics.
    """
    from synthcap_mm.apis.reporting import KeepSamplesHook, metrics_table, save_test_gallery

    chosen_by = _chosen_by(runner.load_checkpoint(checkpoint))
    folder = Path(runner.work_dir)
    ours = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, CaptionMetric)]
    if len(ours) == 1 and ours[0].outfile_prefix is None:
        ours[0].outfile_prefix = str(folder / "test_captions")
    keep = KeepSamplesHook(cfg.get("gallery", {}).get("num", 0))
    runner.register_hook(keep)
    metrics = runner.test()
    if is_main_process():
        skipped = {name: why for metric in ours for name, why in metric.scored.skipped.items()}
        notes = {name: note for metric in ours for name, note in metric.scored.notes.items()}
        report = {
            "config": cfg.config_name,
            "checkpoint": str(checkpoint),
            "seed": runner.seed,
            "validation": chosen_by,
            "metrics": metrics,
            "skipped": skipped,
            "notes": notes,
        }
        path = folder / "test_metrics.json"
        write_json(path, json.loads(json.dumps(report, default=float)))
        table = metrics_table(metrics, skipped, notes)
        print_log(f"test metrics ({checkpoint}):\n{table}\nwritten to {path}", logger="current")
        if keep.samples and (picture := save_test_gallery(cfg, keep.samples, folder / "gallery.png")):
            print_log(f"gallery: {picture}", logger="current")
    barrier()
    return metrics


# ---- what the steps share
def start_logging(cfg: Config) -> None:
    """Log to the terminal where no runner logs yet."""
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level=cfg.get("log_level", "INFO"))


def section(cfg: Config, name: str) -> Any:
    """A section of a config.

    Raises:
        UserError: if the config has none.
    """
    if not cfg.get(name):
        raise UserError(f"the config {cfg.config_name} has no field {name!r}, so there is nothing to do")
    return cfg[name]


def require_inputs(cfg: Config, *stages: str) -> None:
    """Refuse to begin while something is missing, and name all of it at once.

    Raises:
        UserError: if files of those stages are missing.
    """
    missing = missing_inputs(cfg, *stages)
    if not missing:
        return
    if "train" in stages and "test_dataloader" in cfg:
        # Also what the test needs, so that the user sees everything that is missing at once.
        missing += [f"{m}  (for the test)" for m in missing_inputs(cfg, "test") if m not in missing]
    lines = "\n".join(f"  - {line}" for line in missing)
    raise UserError(f"{len(missing)} thing(s) that {cfg.get('config_name', 'the config')} needs are missing:\n{lines}")


def pairs_store(cfg: Config) -> str:
    """The store that ``cfg.synthesis`` makes: its folder, or a view in it."""
    limit = section(cfg, "synthesis").get("limit")
    return cfg.synthesis.store if limit is None else str(view_file(cfg.synthesis.store, limit))


def check_store(cfg: Config) -> None:
    """Refuse to train on a store of ``cfg.synthesis`` that was made by other settings.

    Raises:
        UserError: naming what differs.
    """
    served = [
        d for d in _datasets(cfg.train_dataloader.dataset) if "synthesis" in cfg and d.get("store") == pairs_store(cfg)
    ]
    if not served:
        return
    recipes = dict(Synthesis(**cfg.synthesis).recipes)
    # What training does not use may be otherwise, or not there.
    recipes.pop("pictures", None)
    if any(data.get("refined") for data in served):
        recipes.setdefault("refined/default", {})
    else:
        recipes.pop("refined/default", None)
    if "tokenizer" in cfg.model.get("data_preprocessor", {}):
        recipes.pop("tokenizer", None)
    Store.open(served[0].store).check_recipes(recipes)


def _datasets(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A dataset's config, and those of datasets within it."""
    yield data
    for inner in [*data.get("datasets", ()), data.get("dataset")]:
        if isinstance(inner, dict):
            yield from _datasets(inner)


def prepare_evaluators(cfg: Config) -> None:
    """Make a config's ``CaptionMetric`` ready for the Runner.

    CLIPScore gets the encoder of ``cfg.synthesis``, which made the test store's features, unless it has one. A single
    metric becomes a list: MMEngine takes a dict with a field ``metrics`` for an evaluator's config.

    Args:
        cfg: the config; changed.
    """
    encoder = cfg.get("synthesis", {}).get("encoder")
    for name in ("val_evaluator", "test_evaluator"):
        entries = cfg.get(name)
        if isinstance(entries, dict) and entries.get("type") == "CaptionMetric":
            entries = cfg[name] = [entries]
        for entry in entries if isinstance(entries, list) else ():
            if encoder is not None and entry.get("type") == "CaptionMetric" and entry.get("encoder") is None:
                entry["encoder"] = encoder


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to go on from, or ``None``.

    The one that MMEngine's ``last_checkpoint`` names; where that file was lost or
    cut short by a kill, the last epoch's.
    """
    pointer = Path(work_dir) / "last_checkpoint"
    named = Path(pointer.read_text().strip() or "/nowhere") if pointer.is_file() else None
    if named is not None and named.is_file():
        return str(named)
    epochs = {int(p.stem.split("_")[1]): p for p in Path(work_dir).glob("epoch_*.pth") if p.stem[6:].isdigit()}
    return str(epochs[max(epochs)]) if epochs else None


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _trains_on_curated(cfg: Config) -> bool:
    """Whether the pairs that are trained on are those that the config's own curation makes."""
    settings, data = cfg.get("curation"), cfg.train_dataloader.dataset
    if settings is None or data.get("store") != pairs_store(cfg):
        return False
    return data.get("pairs") == (settings.get("name", "curated") if isinstance(settings, dict) else "curated")


def _switch_tensorboard_on(cfg: Config) -> None:
    """Add TensorBoard to the log files, where ``cfg.tensorboard`` says so."""
    if not cfg.get("tensorboard"):
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"tensorboard=True needs TensorBoard ({error}): pip install 'synthcap_mm[tensorboard]'"
        ) from error
    backends = cfg.visualizer.vis_backends
    if not any(b["type"] == "TensorboardVisBackend" for b in backends):
        backends.append({"type": "TensorboardVisBackend"})


def _best_checkpoint(runner: Runner | FlexibleRunner) -> str:
    from mmengine.hooks import CheckpointHook

    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None)
    if best is None and hook is not None and getattr(hook, "best_ckpt_path_dict", None):
        best = next(iter(hook.best_ckpt_path_dict.values()))
    best = best or runner.message_hub.runtime_info.get("best_ckpt") or getattr(hook, "last_ckpt", None)
    if best is None:
        raise UserError(
            "test_best: no checkpoint was saved; set default_hooks.checkpoint.save_best='CIDEr', or test_best=False"
        )
    return str(best)


def _chosen_by(loaded: dict[str, Any]) -> dict[str, Any] | None:
    """The validation that a checkpoint was chosen by, as it says: epoch and metrics; ``None``: there was none."""
    scalars = loaded.get("message_hub", {}).get("log_scalars", {})
    metrics = {key.removeprefix("val/"): float(v.current()) for key, v in scalars.items() if key.startswith("val/")}
    for timing in ("time", "data_time"):
        metrics.pop(timing, None)
    return {"epoch": loaded.get("meta", {}).get("epoch"), "metrics": metrics} if metrics else None
