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

The steps that make stores make only what is missing. The parts are in :mod:`~synthcap_mm.synthesis` (a file a stage),
:mod:`~synthcap_mm.store`, :mod:`~synthcap_mm.datasets`, :mod:`~synthcap_mm.models` and MMEngine's ``Runner``.
"""

from __future__ import annotations

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.checkpoints import best_checkpoint
from synthcap_mm.config_fields import check_fields
from synthcap_mm.engine.dry_run import dry_run as measure_training
from synthcap_mm.engine.next_commands import next_commands
from synthcap_mm.engine.runners import build_runner
from synthcap_mm.engine.shared_encoder import share_encoder
from synthcap_mm.engine.testing import prepare_evaluators, run_test
from synthcap_mm.errors import UserError
from synthcap_mm.files import locked
from synthcap_mm.missing_inputs import (
    check_store,
    curation_settings,
    require_checkpoint,
    require_inputs,
    section,
    trains_on_curated,
    unread_store,
)
from synthcap_mm.synthesis.curation import Curation, report_table
from synthcap_mm.synthesis.dry_run import measure_synthesis
from synthcap_mm.synthesis.photos import SHARED, PhotoStore
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
    check_fields(cfg)
    start_logging(cfg)
    require_inputs(cfg, "synthesis")
    settings = {**section(cfg, "synthesis"), **({} if limit is None else {"limit": limit})}
    synthesis = Synthesis(**settings)
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
        cfg: the config. The encoders and the tag provider are those of ``cfg.synthesis``.
        task: see :func:`synthesize`. Default ``None``.

    Returns:
        Counts by store; see :meth:`PhotoStore.run`.
    """
    check_fields(cfg)
    start_logging(cfg)
    require_inputs(cfg, "photo_stores")
    models = {name: section(cfg, "synthesis").get(name) for name in SHARED}
    results = {}
    for entry in section(cfg, "photo_stores"):
        settings = {**models, **entry}
        results[entry["store"]] = counts = PhotoStore(**settings).run(Worker.of_this_process(task))
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
    check_fields(cfg)
    start_logging(cfg)
    require_inputs(cfg, "curation")
    settings = curation_settings(cfg)
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
        UserError: if a store is missing or made by other settings, another process trains in the work dir, or
            TensorBoard is asked for and not installed.
    """
    check_fields(cfg)
    share_encoder(cfg)
    start_logging(cfg)
    if cfg.get("auto_synthesize") and not dry_run:
        if unread := unread_store(cfg):
            raise UserError(unread)
        synthesize(cfg)
        if cfg.get("photo_stores"):
            encode_images(cfg)
        if trains_on_curated(cfg):
            curate(cfg)
        barrier()
    require_inputs(cfg, "train")
    check_store(cfg)
    prepare_evaluators(cfg)
    if dry_run:
        cost = measure_training(cfg)
        print_log(f"a training of {cfg.config_name}:\n{cost.describe()}\nNothing was kept: this was a dry run.",
                  logger="synthcap_mm")  # fmt: skip
        return {}
    with _only_training(cfg.work_dir):
        return _train(cfg)


def _only_training(work_dir: str) -> contextlib.AbstractContextManager:
    """Keeps a second training out of a work dir: their checkpoints would mix."""
    if not is_main_process():
        return contextlib.nullcontext()
    os.makedirs(work_dir, exist_ok=True)
    refusal = f"another process trains in {work_dir}: wait for its end, or give another --work-dir"
    return locked(Path(work_dir, ".lock"), refusal)


def _train(cfg: Config) -> dict[str, float]:
    runner = build_runner(cfg)
    runner.train()
    metrics = _test_best(runner, cfg) if cfg.get("test_best") else {}
    if is_main_process() and cfg.filename and (checkpoint := best_checkpoint(runner)):
        print_log(next_commands(cfg, runner.work_dir, checkpoint), logger="current")
    return metrics


def _test_best(runner: Runner | FlexibleRunner, cfg: Config) -> dict[str, float]:
    # Rank 0 alone writes checkpoints, and the last epoch's may be the best: it must be there before any rank reads it.
    barrier()
    best = best_checkpoint(runner)
    if best is None:
        raise UserError(
            "test_best: no checkpoint was saved; set default_hooks.checkpoint.save_best='CIDEr', or test_best=False"
        )
    print_log(f"testing {best} on the test split, once", logger="current")
    if not isinstance(runner, Runner):
        # Any runner loads the checkpoint; one that needs no strategy tests, as the command `test` does.
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = f"{runner.experiment_name}_test"
        runner = build_runner(cfg, to_test=True)
    return run_test(runner, cfg, best)


# ---- a captioner → metrics
def test(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Metrics of a checkpoint on the test split.

    Raises:
        UserError: if the checkpoint or a store is missing, or the config has no test set.
    """
    check_fields(cfg)
    share_encoder(cfg)
    require_checkpoint(cfg, checkpoint)
    lacking = [name for name in ("test_dataloader", "test_cfg", "test_evaluator") if not cfg.get(name)]
    if lacking:
        raise UserError(
            f"the config {cfg.config_name} has no test set: {', '.join(lacking)} must be there (docs/data.md)"
        )
    require_inputs(cfg, "test")
    prepare_evaluators(cfg)
    return run_test(build_runner(cfg, to_test=True), cfg, checkpoint)


# ---- what the steps share
def start_logging(cfg: Config) -> None:
    """Log to the terminal where no runner logs yet; of several processes the first one logs."""
    if not MMLogger.check_instance_created("synthcap_mm"):
        level = cfg.get("log_level", "INFO") if os.environ.get("RANK", "0") == "0" else "ERROR"
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level=level)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
