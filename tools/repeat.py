"""Train and test a config with several seeds: python tools/repeat.py CONFIG --seeds 3."""

import argparse
import sys
from pathlib import Path

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from mmengine.config import Config, DictAction

from synthcap_mm.apis.repeating import RepeatError, run_seeds, summarize, summary_table, write_summary
from synthcap_mm.config_files import resolve_config


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what is handed on to tools/train.py."""
    parser = argparse.ArgumentParser(
        description="Run tools/train.py once a seed, each in WORK_DIR/seed_N, and test each one's best epoch once: "
        "mean ± sd (n - 1) per metric, repeat.json and repeat.csv. Stopped, the same command goes on; finished seeds "
        "are reused. Other flags are handed on to tools/train.py (--amp, --auto-scale-lr).",
        epilog="example: python tools/repeat.py configs/synthcap_mini.py --seeds 3",
    )
    parser.add_argument("config", help="config file (one of the shipped ones may be named without its folder)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many (default: 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="seeds S to S + N - 1 (default: 0)")
    parser.add_argument("--work-dir", help="folder of the seeds' folders (default: work_dirs/CONFIG's name_repeat)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="as of tools/train.py")
    args, flags = parser.parse_known_args()
    for option in args.cfg_options:
        if option.startswith(("randomness.seed=", "test_best=")):
            parser.error(f"{option.partition('=')[0]} is set by this tool; leave it out")
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: at least one is needed")
    return args, flags


def main() -> None:
    """Run."""
    args, flags = parse_args()
    cfg = Config.fromfile(resolve_config(args.config), import_custom_modules=False)
    if args.cfg_options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        cfg.merge_from_dict(parser.parse_args(["--cfg-options", *args.cfg_options]).cfg_options)
    if not cfg.get("test_dataloader") or not cfg.get("test_cfg"):
        raise SystemExit(f"{args.config} has no test split (test_dataloader, test_cfg), so there is nothing to average")
    work_dir = args.work_dir or f"work_dirs/{Path(args.config).stem}_repeat"
    train = [sys.executable, str(Path(__file__).resolve().parent / "train.py"), args.config]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    try:
        summary = summarize(run_seeds(train, cfg.pretty_text, seeds, work_dir, flags, args.cfg_options))
    except RepeatError as error:
        raise SystemExit(str(error)) from error
    files = write_summary(summary, work_dir)
    print(f"{summary_table(summary)}\nwritten to {' and '.join(map(str, files))}")


if __name__ == "__main__":
    main()
