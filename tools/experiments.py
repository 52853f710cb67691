"""Run the experiments of a results table: python tools/experiments.py NAME."""

import argparse
import os
from pathlib import Path

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from mmengine.config import DictAction
from mmengine.logging import MMLogger, print_log

from synthcap_mm.apis.experiments import ExperimentError, Experiments, Ledger, read_table, table_names
from synthcap_mm.apis.results_page import draw_plot, section, write_section

OFFICIAL = Path("docs")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run what a results table lists, and write the table. Finished runs are known by the hash of their "
        "settings and their seed, from the csv, and are not run again: the same command goes on where it was stopped.",
        epilog="example: python tools/experiments.py mini --seeds 3 --jobs 2 --only decap synthcap",
    )
    parser.add_argument("table", help=f"{', '.join(table_names())}; or the path of a json file")
    parser.add_argument("--seeds", type=int, help="seeds of each run that are run, from 0 (default: the table's)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="run these only; the page has all that are finished")
    parser.add_argument("--work-dir", default="work_dirs/experiments", help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=OFFICIAL,
        help="folder of results.md and results/ (default: %(default)s, whose finished runs are not run again)",
    )
    parser.add_argument("--no-run", action="store_true", help="only write the table of what is finished")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings for every run; with --out, since they are not the table's runs then",
    )
    args = parser.parse_args()
    if args.cfg_options and args.out.resolve() == OFFICIAL.resolve():
        parser.error("--cfg-options makes other runs than the table's; name a folder for their csv and page with --out")
    return args


def main() -> None:
    """Run."""
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logger = MMLogger.get_instance("experiments", logger_name="experiments")
    try:
        table = read_table(args.table)
        ledger = Ledger(args.out / "results" / f"{table.name}.csv")
        experiments = Experiments(table, args.work_dir, ledger, args.seeds, args.jobs, args.only, args.cfg_options)
        failed = None
        if not args.no_run:
            try:
                experiments.run()
            except ExperimentError as error:  # what is finished is written all the same
                failed = error
        # The page has all that there is, not only what was asked for just now.
        experiments.seeds = range(max(len(experiments.seeds), table.seeds))
        picture = args.out / "results" / f"{table.name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw_plot(experiments, picture)
        text = section(experiments, f"results/{picture.name}" if drawn else None)
        write_section(args.out / "results.md", table.name, text)
        print_log(f"{args.out / 'results.md'}:\n{text}", logger=logger)
        if failed is not None:
            raise failed
    except (ExperimentError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
