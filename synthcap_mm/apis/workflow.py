"""The steps of a config, as the tools run them: synthesize, encode, train, test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

from synthcap_mm.apis.missing_inputs import missing_inputs
from synthcap_mm.pairs import PairFactory, encode_photos, has_store
from synthcap_mm.stores.shards import write_json


class MissingInputsError(FileNotFoundError):
    """Files that the config names are not there; the message lists all of them."""


def _logger(cfg: Config) -> None:
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level=cfg.get("log_level", "INFO"))


def require_inputs(cfg: Config, *stages: str) -> None:
    """Refuse to begin while something is missing, and name all of it at once.

    Raises:
        MissingInputsError: if files of those stages are missing.
    """
    missing = missing_inputs(cfg, *stages)
    if missing:
        if "train" in stages and "test_dataloader" in cfg:
            # It could be trained without; but who comes for the one should not have to come again for the other.
            missing += [f"{m}  (for the test)" for m in missing_inputs(cfg, "test") if m not in missing]
        lines = "\n".join(f"  - {m}" for m in missing)
        raise MissingInputsError(
            f"{len(missing)} thing(s) that {cfg.get('config_name', 'the config')} needs are missing:\n{lines}"
        )


def _on_all_ranks(value: bool) -> bool:
    box = [value]
    broadcast_object_list(box)
    return box[0]


def synthesize(
    cfg: Config,
    missing_only: bool = False,
    only: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the store of pairs that ``cfg.synthesis`` describes.

    Args:
        cfg: the config.
        missing_only: do nothing when a whole store is there. Default ``False``:
            check it against the config, and make what is missing.
        only: a single stage, ``'text'``, ``'images'``, ``'tags'`` or ``'refine'``. Default ``None``: all.
        limit: the first captions only, in a store of its own. Default ``None``: all.
        dry_run: say what would be done, measure a few batches, and leave no store. Default ``False``.

    Returns:
        Counts; see :meth:`PairFactory.run`. Nothing after a dry run.

    Raises:
        KeyError: if the config has no ``synthesis``.
        MissingInputsError: if files that it names are missing.
        StoreError: see :meth:`PairFactory.run`.
        ValueError: see :meth:`PairFactory.run`; also for ``only`` together with ``dry_run``.
    """
    _logger(cfg)
    if "synthesis" not in cfg:
        raise KeyError(f"the config {cfg.config_name} has no field 'synthesis', so there is nothing to make")
    if dry_run and only is not None:
        raise ValueError("a dry run is of all stages: --dry-run does not go with --only")
    if missing_only and _on_all_ranks(has_store(cfg.synthesis.store)):
        return {}
    require_inputs(cfg, "synthesis")
    options = {**cfg.synthesis, **({} if limit is None else {"limit": limit})}
    factory = PairFactory(**options)
    if dry_run:
        plan = factory.dry_run()
        print_log(f"measured:\n{plan.describe()}\nNothing was made: this was a dry run.", logger="current")
        return {}
    counts = factory.run(only)
    print_log(
        "synthesize: " + ", ".join(f"{v} {k}" for k, v in counts.items()) + f"; store: {factory.store}",
        logger="current",
    )
    return counts


def encode_images(cfg: Config, missing_only: bool = False) -> dict[str, dict[str, Any]]:
    """Encode and tag the real photos of each entry of ``cfg.photo_stores``.

    Args:
        cfg: the config. The encoder and the tag provider are those of ``cfg.synthesis``.
        missing_only: leave whole stores alone. Default ``False``.

    Returns:
        Counts by store; see :func:`encode_photos`.
    """
    _logger(cfg)
    results: dict[str, dict[str, Any]] = {}
    entries = cfg.get("photo_stores", [])
    if not entries and not missing_only:
        raise KeyError(f"the config {cfg.config_name} has no field 'photo_stores', so there are no photos to encode")
    todo = [e for e in entries if not (missing_only and _on_all_ranks(has_store(e["store"])))]
    if todo:
        require_inputs(cfg, "photo_stores")
    for entry in todo:
        options = {"encoder": cfg.synthesis.encoder, "tag_provider": cfg.synthesis.get("tag_provider"), **entry}
        counts = encode_photos(**options)
        results[entry["store"]] = counts
        print_log(
            "encode: " + ", ".join(f"{v} {k}" for k, v in counts.items()) + f"; store: {entry['store']}",
            logger="current",
        )
    return results


def train(cfg: Config) -> dict[str, float]:
    """Train and validate; where the config says so, make the stores first and test the best checkpoint last.

    Returns:
        The test metrics, if ``cfg.test_best``, else nothing.

    Raises:
        MissingInputsError: if a store is missing, with the command that makes it.
    """
    if cfg.get("auto_synthesize"):
        synthesize(cfg, missing_only=True)
        encode_images(cfg, missing_only=True)
    require_inputs(cfg, "train")
    runner = Runner.from_cfg(cfg)
    runner.train()
    if not cfg.get("test_best"):
        return {}
    best = _best_checkpoint(runner)
    print_log(f"testing {best} on the test split, once", logger="current")
    runner.load_checkpoint(best)
    return _test(runner, cfg, best)


def test(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Metrics of a checkpoint on the test split.

    Raises:
        MissingInputsError: if the checkpoint or a store is missing.
    """
    if not Path(checkpoint).is_file():
        raise MissingInputsError(f"no checkpoint at {checkpoint}; train one: python tools/train.py {cfg.config_name}")
    require_inputs(cfg, "test")
    cfg.load_from = checkpoint
    return _test(Runner.from_cfg(cfg), cfg, checkpoint)


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


def _best_checkpoint(runner: Runner) -> str:
    from mmengine.hooks import CheckpointHook

    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None)
    if best is None and hook is not None and getattr(hook, "best_ckpt_path_dict", None):
        best = next(iter(hook.best_ckpt_path_dict.values()))
    best = best or runner.message_hub.runtime_info.get("best_ckpt") or getattr(hook, "last_ckpt", None)
    if best is None:
        raise RuntimeError(
            "test_best: no checkpoint was saved; set default_hooks.checkpoint.save_best='CIDEr', or test_best=False"
        )
    return str(best)


def _test(runner: Runner, cfg: Config, checkpoint: str) -> dict[str, float]:
    from synthcap_mm.apis.reporting import KeepSamplesHook, metrics_table, save_test_gallery

    keep = KeepSamplesHook(cfg.get("gallery", {}).get("num", 0))
    runner.register_hook(keep)
    metrics = runner.test()
    if is_main_process():
        report = {"config": cfg.config_name, "checkpoint": str(checkpoint), "seed": runner.seed, "metrics": metrics}
        path = Path(runner.work_dir) / "test_metrics.json"
        write_json(path, json.loads(json.dumps(report, default=float)))
        print_log(f"test metrics ({checkpoint}):\n{metrics_table(metrics)}\nwritten to {path}", logger="current")
        if keep.samples:
            picture = save_test_gallery(cfg, keep.samples, Path(runner.work_dir) / "gallery.png")
            if picture:
                print_log(f"gallery: {picture}", logger="current")
    barrier()
    return metrics


__all__ = ["MissingInputsError", "encode_images", "require_inputs", "synthesize", "test", "train"]
