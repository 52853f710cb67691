"""Run a table of experiments, or one config with several seeds: python -m research.run TABLE|CONFIG.

Finished runs are known from the csv, by the hash of their settings and their seed, and are not run again: stopped, the
same command goes on. The figures go into results.md, results/NAME.csv and results/NAME.png of the folder --out.

    python -m research.run mini --jobs 2 --only decap synthcap
    python -m research.run configs/synthcap_mini.py --seeds 5
"""

import argparse
import os
from pathlib import Path

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from mmengine.config import DictAction
from mmengine.logging import MMLogger, print_log

from research.ledger import Ledger
from research.page import draw_plot, section, write_section
from research.runner import Experiments
from research.tables import read_table, table_names
from synthcap_mm.errors import UserError

#: The folder of the published figures.
PUBLISHED = Path(__file__).resolve().parent / "logs"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help=f"{', '.join(table_names())}; the path of a json file; or a config")
    parser.add_argument("--seeds", type=int, help="seeds of each run, from 0 (default: the table's; 3 for a config)")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="run these only; the page has all that are finished")
    parser.add_argument("--work-dir", default="work_dirs/experiments", help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of results.md and results/ (default: research/logs, whose finished runs are not run again; "
        "for a config or a json file of yours WORK_DIR/NAME)",
    )
    parser.add_argument("--no-run", action="store_true", help="only write the page of what is finished")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings for every run; for a published table with --out only, since they make other runs",
    )
    args = parser.parse_args(argv)
    published = args.table in table_names()
    args.out = args.out or (PUBLISHED if published else Path(args.work_dir) / Path(args.table).stem)
    if args.cfg_options and published and args.out.resolve() == PUBLISHED:
        parser.error("--cfg-options makes other runs than the table's; name a folder for their figures with --out")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run."""
    args = parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logger = MMLogger.get_instance("experiments", logger_name="experiments")
    try:
        table = read_table(args.table)
        ledger = Ledger(args.out / "results" / f"{table.name}.csv")
        experiments = Experiments(table, args.work_dir, ledger, args.seeds, args.jobs, args.only, args.cfg_options)
        try:
            if not args.no_run:
                experiments.run()
        finally:  # where a run failed, the others' figures are written all the same
            # The page has all that there is, not only what was asked for just now.
            if table.tests:
                experiments.seeds = range(max(len(experiments.seeds), table.seeds))
            picture = args.out / "results" / f"{table.name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            drawn = draw_plot(experiments, picture)
            text = section(experiments, f"results/{picture.name}" if drawn else None)
            write_section(args.out / "results.md", table.name, text)
            print_log(f"{args.out / 'results.md'}:\n{text}", logger=logger)
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
