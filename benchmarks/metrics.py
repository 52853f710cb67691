"""The default metrics on 5,000 photos with 5 references: time, and agreement with the Java path.

    python benchmarks/metrics.py CAPTIONS [--images 5000] [--repeats 3] [--java]

CAPTIONS: COCO's captions json. Of each photo five captions are the references. Its prediction is, for every other
photo, its own first caption with two words behind the first swapped and one left out; for the others, the first caption of the next
photo: so scores are neither 0 nor 100.

Time: our default set, tokenising of all captions included (nothing remembered from before), over pycocoevalcap's
BLEU + ROUGE-L + CIDEr alone, on the same tokens, in one run. ``--java``: the averages of the official path (Stanford's
tokenizer by Java, then pycocoevalcap) beside ours.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from tokenizer_parity import java_tokenize

from synthcap_mm.datasets.caption_formats import read_captions
from synthcap_mm.evaluation import CaptionSet, caption_set, score_captions
from synthcap_mm.requirements import require


def make_set(path: Path, images: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predictions and references, as the module's docstring says."""
    captions: dict[str, list[str]] = {}
    for raw in read_captions(path, "coco")[1]:
        captions.setdefault(raw.group, []).append(raw.text)
    references = {key: texts[:5] for key, texts in captions.items() if len(texts) >= 5}
    references = dict(list(references.items())[:images])
    keys, generator, predictions = list(references), random.Random(0), {}
    for n, key in enumerate(keys):
        if n % 2:
            predictions[key] = references[keys[(n + 1) % len(keys)]][0]
            continue
        words = references[key][0].split()
        if len(words) > 3:
            a, b = generator.sample(range(1, len(words)), 2)
            words[a], words[b] = words[b], words[a]
            del words[generator.randrange(1, len(words))]
        predictions[key] = " ".join(words)
    return predictions, references


def official(truth: dict[str, list[str]], said: dict[str, list[str]]) -> dict[str, float]:
    """Averages of pycocoevalcap's own scorers, ×100."""
    bleu, _ = require("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(truth, said, verbose=0)
    rouge, _ = require("pycocoevalcap.rouge.rouge").Rouge().compute_score(truth, said)
    cider, _ = require("pycocoevalcap.cider.cider").Cider().compute_score(truth, said)
    averages = {f"BLEU-{n}": score for n, score in enumerate(bleu, 1)} | {"ROUGE_L": rouge, "CIDEr": cider}
    return {name: 100 * float(score) for name, score in averages.items()}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--java", action="store_true")
    args = parser.parse_args()
    predictions, references = make_set(args.captions, args.images)
    every = CaptionSet(predictions, references)
    best = {"ours": float("inf"), "scorers alone": float("inf")}
    for _ in range(args.repeats):
        caption_set._tokenized.cache_clear()
        start = time.perf_counter()
        ours, _ = score_captions(predictions, references)
        best["ours"] = min(best["ours"], time.perf_counter() - start)
        start = time.perf_counter()
        official(every.truth, every.hypotheses)
        best["scorers alone"] = min(best["scorers alone"], time.perf_counter() - start)
    print(f"{len(predictions)} images, {sum(map(len, references.values()))} references")
    print(f"default set, tokenising included      {best['ours']:8.2f} s")
    print(f"pycocoevalcap's scorers alone         {best['scorers alone']:8.2f} s")
    print(f"ratio {best['ours'] / best['scorers alone']:.3f} (wanted: at most 1.2)")
    if args.java:
        keys = list(references)
        flat = java_tokenize([text for key in keys for text in [predictions[key], *references[key]]])
        truth, said, place = {}, {}, 0
        for key in keys:
            count = len(references[key])
            said[key], truth[key] = [flat[place]], flat[place + 1 : place + 1 + count]
            place += 1 + count
        java = official(truth, said)
        print(f"{'':10}{'ours':>12}{'Java path':>12}{'difference':>12}")
        for name, score in java.items():
            print(f"{name:10}{ours[name]:12.4f}{score:12.4f}{ours[name] - score:12.4f}")


if __name__ == "__main__":
    main()
