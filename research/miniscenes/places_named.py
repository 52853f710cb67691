"""How often captions of the mini-world name a place, and the right one: python -m research.miniscenes.places_named [TABLE].

Reads finished runs of `research.run` and prints a Markdown table, in % of the photos of the table's last test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from research.ledger import Ledger
from research.runner import Experiments
from research.tables import read_table
from synthcap_mm.errors import UserError
from synthcap_mm.miniscenes.language import parse
from synthcap_mm.miniscenes.sources import scene_named


def shares(captions: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Of captions with their photo's key, how many % name a place, and how many % the photo's own."""
    named = [(parse(text).place, scene_named(key).place) for key, text in captions]
    return tuple(
        100 * sum(chosen) / len(named) for chosen in ([n is not None for n, _ in named], [n == own for n, own in named])
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="dialect", help="table of experiments (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each run, from 0 (default: %(default)s)")
    parser.add_argument("--work-dir", default="work_dirs/experiments", help="of the experiments (default: %(default)s)")
    args = parser.parse_args()
    try:
        found = read_table(args.table)
    except UserError as error:
        raise SystemExit(str(error)) from error
    experiments = Experiments(found, args.work_dir, Ledger(Path(args.work_dir) / found.name / "none.csv"), args.seeds)
    lines, people = [], []
    for name, run in found.runs.items():
        seeds = [experiments.images(name, seed, found.tests[-1]) for seed in experiments.seeds]
        if not all(seeds):
            lines.append(f"| {run.title} | not finished | |")
            continue
        people = [(k, text) for k, v in seeds[0].items() for text in v["references"]]
        named, right = shares([(k, v["hypothesis"]) for images in seeds for k, v in images.items()])
        lines.append(f"| {run.title} | {named:.1f} | {right:.1f} |")
    if people:
        lines.append("| *people* | {:.1f} | {:.1f} |".format(*shares(people)))
    print("| captions | name a place | the right one |\n|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
