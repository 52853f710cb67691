"""Commands of the training: train, test, test-many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthcap_mm.cli.arguments import (
    add_config,
    add_launcher,
    add_trust,
    add_work_dir,
    command_parser,
    load_config,
)
from synthcap_mm.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def train(argv: Sequence[str]) -> None:
    """Train a captioner."""
    parser = command_parser(
        "train",
        "Train the captioner of a config, validating as it says. Logs and checkpoints go to the work dir.",
        "configs/synthcap_mini.py --work-dir work_dirs/try --cfg-options train_cfg.max_epochs=2",
    )
    add_config(parser)
    add_launcher(parser)
    add_work_dir(parser, "logs and checkpoints")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a value or with 'auto' from the work dir's latest",
    )
    add_trust(parser)
    parser.add_argument("--amp", action="store_true", help="forward in bfloat16 (AutocastOptimWrapper)")
    parser.add_argument("--no-validate", action="store_true", help="do not validate during training")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by (batch size over all ranks) / auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, store, memory, batch and schedule on a few steps, print the cost of all; leave nothing",
    )
    args = parser.parse_args(argv)
    if args.dry_run and args.resume is not None:
        raise UserError("--dry-run begins a training of its own: it does not go with --resume")
    cfg = load_config(args)
    if args.amp:
        if cfg.optim_wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", "AutocastOptimWrapper"):
            raise UserError(f"--amp cannot change the optimizer wrapper {cfg.optim_wrapper.type}")
        cfg.optim_wrapper.type, cfg.optim_wrapper.dtype = "AutocastOptimWrapper", "bfloat16"
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.pop("save_best", None)
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UserError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        cfg.auto_scale_lr.enable = True
    from synthcap_mm import pipeline
    from synthcap_mm.engine.launching import process_group
    from synthcap_mm.weights_files import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoint), process_group(cfg):
        if args.resume is not None:
            _resume(cfg, args.resume)
        elif not args.dry_run and not cfg.get("resume"):
            _say_what_is_there(cfg)
        pipeline.train(cfg, dry_run=args.dry_run)


def _resume(cfg: Config, checkpoint: str) -> None:
    from mmengine.logging import print_log

    from synthcap_mm.checkpoints import latest_checkpoint
    from synthcap_mm.missing_inputs import require_checkpoint

    if checkpoint != "auto":
        require_checkpoint(cfg, checkpoint)
        cfg.resume, cfg.load_from = True, checkpoint
    elif (latest := latest_checkpoint(cfg.work_dir, cfg)) is not None:
        cfg.resume, cfg.load_from = True, latest
    else:  # the config's own load_from stays: a fine-tuning begins with it
        cfg.resume = False
        print_log(f"nothing to resume in {cfg.work_dir}; starting from the beginning", logger="current")


def _say_what_is_there(cfg: Config) -> None:
    from mmengine.logging import print_log

    from synthcap_mm.checkpoints import latest_checkpoint

    if (latest := latest_checkpoint(cfg.work_dir, cfg)) is not None:
        print_log(
            f"{latest} is from an earlier training. This one begins at epoch 1 and writes over it: to go on from it, "
            "stop this one (Ctrl-C) and add --resume to the command",
            logger="current",
            level=30,
        )


def test(argv: Sequence[str]) -> None:
    """Test a captioner."""
    parser = command_parser(
        "test", "Metrics of a checkpoint on the config's test split: a table, test_metrics.json and a gallery."
    )
    add_config(parser)
    add_launcher(parser)
    parser.add_argument("checkpoint", help="checkpoint file of a training")
    add_work_dir(parser, "the results")
    add_trust(parser)
    args = parser.parse_args(argv)
    cfg = load_config(args)
    from synthcap_mm import pipeline
    from synthcap_mm.engine.launching import process_group
    from synthcap_mm.weights_files import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoint), process_group(cfg):
        pipeline.test(cfg, args.checkpoint)


def test_many(argv: Sequence[str]) -> None:
    """Test a captioner on several test sets, one table."""
    parser = command_parser(
        "test-many",
        "Metrics of a checkpoint on each of the config's 'test_sets': in-domain, cross-domain, with another memory "
        "(TT), NoCaps by domain; one table, test_many.json and test_many.csv. docs/metrics.md explains the field.",
        "configs/synthcap_coco.py best_CIDEr_epoch_9.pth --sets coco nocaps",
    )
    add_config(parser)
    add_launcher(parser)
    parser.add_argument("checkpoint", help="checkpoint file of a training")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="names of those that are wanted (default: all)")
    add_work_dir(parser, "the results")
    add_trust(parser)
    args = parser.parse_args(argv)
    cfg = load_config(args)
    from synthcap_mm.engine import test_sets
    from synthcap_mm.engine.launching import process_group
    from synthcap_mm.weights_files import trusted_checkpoints

    with trusted_checkpoints(args.trust_checkpoint), process_group(cfg):
        test_sets.test_many(cfg, args.checkpoint, args.sets)
