"""Train a captioner: python tools/train.py CONFIG."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from mmengine.logging import print_log

from synthcap_mm.apis.launching import add_common_arguments, load_config, process_group


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the captioner of a config, validating as it says. Logs and checkpoints go to the work dir.",
        epilog="example: python tools/train.py configs/synthcap_mini.py --work-dir work_dirs/try --cfg-options "
        "train_cfg.max_epochs=2",
    )
    add_common_arguments(parser)
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/CONFIG's name)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from a checkpoint; without a value or with 'auto' from the work dir's latest",
    )
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
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    if args.dry_run and args.resume is not None:
        raise SystemExit("--dry-run begins a training of its own: it does not go with --resume")
    cfg = load_config(args)
    if args.amp:
        if cfg.optim_wrapper.get("type", "OptimWrapper") not in ("OptimWrapper", "AutocastOptimWrapper"):
            raise SystemExit(f"--amp cannot change the optimizer wrapper {cfg.optim_wrapper.type}")
        cfg.optim_wrapper.type, cfg.optim_wrapper.dtype = "AutocastOptimWrapper", "bfloat16"
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.pop("save_best", None)
    if args.auto_scale_lr:
        if "auto_scale_lr" not in cfg or "base_batch_size" not in cfg.auto_scale_lr:
            raise SystemExit("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        cfg.auto_scale_lr.enable = True
    with process_group(cfg):
        from synthcap_mm.apis.dry_run import DoesNotFitError
        from synthcap_mm.errors import UserError as MissingInputsError
        from synthcap_mm.pipeline import latest_checkpoint, train
        from synthcap_mm.store import StoreError

        if args.resume is not None:
            checkpoint = latest_checkpoint(cfg.work_dir) if args.resume == "auto" else args.resume
            cfg.resume = checkpoint is not None
            if cfg.resume:
                cfg.load_from = checkpoint
            else:  # the config's own load_from stays: a fine-tuning begins with it
                print_log(f"nothing to resume in {cfg.work_dir}; starting from the beginning", logger="current")
        try:
            train(cfg, dry_run=args.dry_run)
        except (
            MissingInputsError,
            StoreError,
            DoesNotFitError,
        ) as error:  # what the user can mend, without a traceback
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
