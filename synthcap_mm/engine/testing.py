"""A test: its metrics, captions and gallery, written into the work dir."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import Runner

from synthcap_mm.evaluation import CaptionMetric
from synthcap_mm.evaluation.reporting import KeepSamplesHook, metrics_table, save_test_gallery
from synthcap_mm.files import write_json


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
            entries = cfg[name] = [copy.deepcopy(entries)]  # one dict may serve validation and test
        for entry in entries if isinstance(entries, list) else ():
            if encoder is not None and entry.get("type") == "CaptionMetric" and entry.get("encoder") is None:
                entry["encoder"] = encoder


def run_test(runner: Runner, cfg: Config, checkpoint: str, floor: str | None = None) -> dict[str, float]:
    """Test a checkpoint once, and write what was found into the runner's work folder.

    ``test_metrics.json`` has the test's metrics beside those of the validation that chose the epoch, and what was
    skipped and why; ``test_captions.json`` every caption with its references and scores; ``gallery.png`` some photos.

    Args:
        runner: made from ``cfg``.
        cfg: the config.
        checkpoint: file to load.
        floor: store of the captions that the floor is of, where a metric names none. Default ``None``:
            ``cfg.model.store``, whose captions the captioner is trained on.

    Returns:
        The metrics.
    """
    chosen_by = _chosen_by(runner.load_checkpoint(checkpoint))
    folder = Path(runner.work_dir)
    ours = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, CaptionMetric)]
    for metric in ours:
        metric.floor = metric.floor or floor or cfg.get("model", {}).get("store")
    if any(metric.floor is None for metric in ours):
        print_log(
            "no floor of the nearest training captions: the config's model.store names no store of captions",
            logger="current",
        )
    if len(ours) == 1 and ours[0].outfile_prefix is None:
        ours[0].outfile_prefix = str(folder / "test_captions")
    keep = KeepSamplesHook(cfg.get("gallery", {}).get("num", 0))
    runner.register_hook(keep)
    metrics = runner.test()
    if is_main_process():
        about = {
            part: {name: text for metric in ours for name, text in getattr(metric.scored, part).items()}
            for part in ("skipped", "notes", "warnings")
        }
        report = {
            "config": cfg.config_name,
            "checkpoint": str(checkpoint),
            "seed": runner.seed,
            "validation": chosen_by,
            "metrics": metrics,
            **about,
        }
        path = folder / "test_metrics.json"
        write_json(path, json.loads(json.dumps(report, default=float)))
        table = metrics_table(metrics, **about)
        for floor in {metric.floor for metric in ours if metric.scored.nearest}:
            table += (
                f"\n  nearest training caption: of {floor}, by the encoder's cosine with the photo; needs no training"
            )
        print_log(f"test metrics ({checkpoint}):\n{table}\nwritten to {path}", logger="current")
        if keep.samples and (picture := save_test_gallery(cfg, keep.samples, folder / "gallery.png")):
            print_log(f"gallery: {picture}", logger="current")
    barrier()
    return metrics


def _chosen_by(loaded: dict[str, Any]) -> dict[str, Any] | None:
    """The validation that a checkpoint was chosen by, as it says: epoch and metrics; ``None``: there was none."""
    scalars = loaded.get("message_hub", {}).get("log_scalars")
    metrics = {
        name.removeprefix("val/"): float(values.current())
        for name, values in (scalars.items() if isinstance(scalars, dict) else ())
        if isinstance(name, str)
        and name.startswith("val/")
        and isinstance(values, HistoryBuffer)
        and len(values.data[0])
    }
    for timing in ("time", "data_time"):
        metrics.pop(timing, None)
    epoch = loaded.get("meta", {}).get("epoch")
    return {"epoch": epoch if isinstance(epoch, int) else None, "metrics": metrics} if metrics else None
