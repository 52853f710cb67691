"""The mini-world's two marks: the nearest-caption floor, and the upper bound trained on real photos.

    python -m research.run mini --only upper_bound --out work_dirs/marks
    python -m research.miniscenes.marks --results work_dirs/marks/results/mini.csv

The floor gives each test photo the training caption that mini-CLIP finds nearest to it. The upper bound is a run of the
table: the captioner of configs/synthcap_mini.py, trained on the photos of the training scenes, without projection and
optimisation. Prints both; the second should be at least twice the first (CIDEr).
"""

import argparse

import numpy as np

from research.ledger import Ledger
from research.tables import config_hash, config_of, read_table
from synthcap_mm.datasets import CaptionEvalDataset
from synthcap_mm.evaluation import nearest_captions, score_captions
from synthcap_mm.store import StoreError


def nearest_caption_floor(pairs: str, photos: str) -> dict[str, float]:
    """Scores of the nearest training caption of each photo of a store."""
    dataset = CaptionEvalDataset(photos)
    samples = [dataset[i] for i in range(len(dataset))]
    return score_captions(nearest_captions(pairs, samples), {s.key: s.references for s in samples})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", default="research/logs/results/mini.csv", help="of research.run (default: %(default)s)"
    )
    args = parser.parse_args()
    digest = config_hash(config_of(read_table("mini").runs["upper_bound"]))
    rows = [row for row in Ledger(args.results).rows if (row["run"], row["hash"]) == ("upper_bound", digest)]
    if not rows:
        raise SystemExit(
            f"{args.results} has no run of today's upper_bound; first: python -m research.run mini --only upper_bound"
        )
    try:
        floor = nearest_caption_floor("data/miniscenes/real_pairs", "data/miniscenes/test")
    except StoreError as error:
        raise SystemExit(
            f"{error}\nHere the run makes it: python -m research.run mini --only upper_bound --out work_dirs/marks"
        ) from error
    print(f"{'':<24}{'CIDEr':>8}{'BLEU-4':>8}")
    print(f"{'nearest caption (floor)':<24}{floor['CIDEr']:>8.1f}{floor['BLEU-4']:>8.1f}")
    for row in rows:
        name = f"upper bound, seed {row['seed']}"
        print(f"{name:<24}{float(row['CIDEr']):>8.1f}{float(row['BLEU-4']):>8.1f}")
    ratio = np.mean([float(row["CIDEr"]) for row in rows]) / floor["CIDEr"]
    print(f"upper bound / floor: {ratio:.2f} (wanted: at least 2)")


if __name__ == "__main__":
    main()
