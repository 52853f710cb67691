"""The mini-world's two marks: the nearest-caption floor, and the upper bound trained on real photos.

    python benchmarks/miniscenes/marks.py [--work-dir work_dirs/marks] [--seeds 0 1 2]

The floor gives each test photo the training caption that mini-CLIP finds
nearest to it. The upper bound trains the captioner of configs/synthcap_mini.py
on the photos of the training scenes, without projection and refinement.
Prints both as a table; the second should be at least twice the first (CIDEr).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from synthcap_mm.evaluation.caption_metric import score_captions
from synthcap_mm.stores import Store

ROOT = Path(__file__).resolve().parents[2]


def nearest_caption_floor(pairs: str, photos: str) -> dict[str, float]:
    """Scores of the nearest training caption of each photo of a store."""
    captions, test = Store.open(pairs), Store.open(photos)
    rows = captions.caption_rows("train")
    similarity = test.images.features().astype(np.float32) @ captions.caption_features(rows).astype(np.float32).T
    nearest = rows[similarity.argmax(1)]
    keys = test.images.strings("key")
    references: dict[str, list[str]] = {}
    for key, text in zip(test.captions.strings("group"), test.captions.strings("text")):
        references.setdefault(key, []).append(text)
    predictions = {key: captions.captions.value("text", int(row)) for key, row in zip(keys, nearest)}
    return score_captions(predictions, references)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", default="work_dirs/marks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        folder = Path(args.work_dir) / f"upper_bound_{seed}"
        result = folder / "test_metrics.json"
        if not result.is_file():
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
            subprocess.run(
                [
                    sys.executable,
                    ROOT / "tools" / "train.py",
                    ROOT / "configs" / "synthcap" / "upper_bound_mini.py",
                    "--work-dir",
                    folder,
                    "--cfg-options",
                    f"randomness.seed={seed}",
                ],
                check=True,
                env=environment,
            )
        runs.append(json.loads(result.read_text())["metrics"])
    floor = nearest_caption_floor("data/miniscenes/real_pairs", "data/miniscenes/test")
    print(f"{'':<24}{'CIDEr':>8}{'BLEU-4':>8}")
    print(f"{'nearest caption (floor)':<24}{floor['CIDEr']:>8.1f}{floor['BLEU-4']:>8.1f}")
    for seed, metrics in zip(args.seeds, runs):
        print(f"{f'upper bound, seed {seed}':<24}{metrics['CIDEr']:>8.1f}{metrics['BLEU-4']:>8.1f}")
    mean = float(np.mean([m["CIDEr"] for m in runs]))
    print(f"upper bound / floor: {mean / floor['CIDEr']:.2f} (wanted: at least 2)")


if __name__ == "__main__":
    main()
