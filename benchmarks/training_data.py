"""Whether the data side keeps up with training, and whether memory grows with the number of pairs.

Makes stores of random features in the real format, reads them as training does
(in the main process: no workers to hide behind), and prints the time of
reading and of preparing a batch as a share of a training step of the
flagship's captioner, and the private memory of a fresh process that has read
10,000 samples of stores of different sizes.

    python benchmarks/training_data.py [--sizes 20000 200000] [--batch 64] [--steps 8]
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import init_default_scope
from random_store import make_random_store

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.registry import MODELS

DIM = 512


def private_megabytes() -> float:
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty")) / 1024


def read_and_weigh(store: str) -> None:
    """In a process of its own: private memory before opening the store, and after reading 10,000 samples."""
    before = private_megabytes()
    dataset = SynthPairDataset(store)
    for i in np.random.default_rng(0).permutation(len(dataset))[:10_000]:
        dataset[int(i)]
    print(f"{private_megabytes() - before:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args()
    init_default_scope("synthcap_mm")
    if args.read:
        read_and_weigh(args.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            make_random_store(Path(folder) / str(size), size, DIM)
            read = subprocess.run(
                [sys.executable, __file__, "--read", f"{folder}/{size}"], check=True, stdout=subprocess.PIPE, text=True
            )
            print(f"{size:>8} pairs: private memory after 10,000 samples +{float(read.stdout):.1f} MB")
        dataset = SynthPairDataset(f"{folder}/{args.sizes[0]}")
        model = MODELS.build(
            copy.deepcopy(
                {
                    "type": "SynthCaptioner",
                    "store": f"{folder}/{args.sizes[0]}",
                    "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {}},
                    "necks": {"memory": {"type": "TextMemoryProjection"}, "projector": {"type": "PrefixProjector"}},
                    "head": {"type": "GPT2CaptionHead"},
                }
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        order = np.random.default_rng(0).permutation(len(dataset))
        times: dict[str, list[float]] = {"read": [], "prepare": [], "step": []}
        for step in range(args.steps + 1):
            marks = [time.perf_counter()]
            samples = [dataset[int(i)] for i in order[step * args.batch : (step + 1) * args.batch]]
            marks.append(time.perf_counter())
            batch = model.data_preprocessor(samples, training=True)
            marks.append(time.perf_counter())
            loss = model(**batch, mode="loss")["loss_caption"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            marks.append(time.perf_counter())
            if step:  # the first one warms up
                for name, a, b in zip(times, marks, marks[1:]):
                    times[name].append(b - a)
        best = {name: min(values) for name, values in times.items()}
        whole = sum(best.values())
        width = batch["input_ids"].shape[1]
        for name, seconds in best.items():
            print(f"{name:<8}{1000 * seconds:9.1f} ms   {100 * seconds / whole:5.2f} % of the step")
        print(
            f"reading is {100 * best['read'] / whole:.2f} % of the step (wanted: under 5); batch padded to {width} tokens"
        )


if __name__ == "__main__":
    main()
