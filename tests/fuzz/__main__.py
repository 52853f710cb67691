"""``python -m tests.fuzz``: seeded, bounded, without a network."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # of the tiny components

from .kinds import KINDS
from .running import FAULTS, run, show_case, table


def say(text: str) -> None:
    print(text, flush=True)


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
    tallies = []
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        for name in args.kind:
            kind = KINDS[name](Path(folder).resolve() / name)
            if args.case is not None:
                return show_case(kind, args.seed, args.case, args.keep)
            tally = run(kind, args.count, args.seed, args.first, args.jobs, args.keep, say)
            tallies.append(tally)
    print(table(tallies))
    return int(any(tally.count[fault] for tally in tallies for fault in FAULTS))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # what the kinds left running (servers) is not waited for
