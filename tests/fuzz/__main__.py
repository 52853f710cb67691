"""``python -m tests.fuzz``: seeded, bounded, without a network."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # of the tiny components

from .kinds import KINDS
from .running import FAULTS, run, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", nargs="+", choices=[*KINDS], default=[*KINDS], help="default: all")
    parser.add_argument("--count", type=int, default=300, help="cases of each kind (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: 2)")
    parser.add_argument("--case", type=int, help="run this one alone, and show what it prints")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the inputs of faults here")
    args = parser.parse_args()
    cases = range(args.first, args.first + args.count) if args.case is None else range(args.case, args.case + 1)
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        kinds = (KINDS[name](Path(folder).resolve() / name) for name in args.kind)
        tallies = [run(kind, cases, args.seed, args.jobs, args.keep, args.case is not None) for kind in kinds]
    print(table(tallies))
    return int(any(tally.count[fault] for tally in tallies for fault in FAULTS))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # what the kinds left running (servers) is not waited for
