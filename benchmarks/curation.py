"""Time, memory and growth of curation on random features.

    python benchmarks/curation.py [--rows 50000 100000 200000 --dim 512 --threads 1 --work-dir FOLDER]

For each number N a store of N captions and N images with random unit features is written, and curated in a process
of its own: SynC's reassignment (15 images, 2 captions, the best 90 %) with text→image recall, which together search
all images for each caption, and all captions for each image that was found. The exact search's work grows with N²;
the table ends with the exponent between neighbouring sizes. Peak memory is the process's largest resident set, the
mapped files' pages included; the exit status is 1 where it exceeds 4 GB. Random features say nothing about quality.
Figures depend on the machine and on what else it does. ``--search faiss`` measures the approximate search, and how
many captions it gives another image than the exact one (which has to be run too: ``--search exact faiss``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from random_store import make_random_store

MOST_GB = 4.0
SHARD = 1024


def run_one(store: str, search: str, threads: int) -> None:
    """In a process of its own: curate, and print figures as JSON."""
    import torch

    from synthcap_mm.synthesis.curation import Curation

    torch.set_num_threads(threads)
    start, cpu = time.perf_counter(), time.process_time()
    report = Curation(store, [{"type": "reassign"}], name=search, search=search, device="cpu").run()
    figures = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "kept": report["kept"],
        "images": report["after"]["images"],
    }
    print(json.dumps(figures))


def agreement(store: Path) -> float:
    """Share of the captions kept by the exact search that have the same image with FAISS."""
    from synthcap_mm.store import Store

    tables = [Store.open(store).pairs(name) for name in ("exact", "faiss")]
    image = [dict(zip(t.numbers("caption").tolist(), t.numbers("image").tolist())) for t in tables]
    return float(np.mean([image[1].get(c) == i for c, i in image[0].items()]))


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--search", nargs="+", choices=["exact", "faiss"], default=["exact"])
    parser.add_argument("--work-dir", help="folder for the stores (default: a temporary one)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(*args.one, args.threads)
        return 0
    folder = Path(tempfile.mkdtemp(dir=args.work_dir))
    last: dict[str, tuple[int, float]] = {}
    fits = True
    try:
        print(f"{args.dim} dimensions, {args.threads} thread(s)")
        print(
            f"{'rows':>9} {'search':>7} {'seconds':>9} {'CPU s':>9} {'peak GB':>8} {'kept':>6} {'exponent':>9}",
            flush=True,
        )
        for rows in args.rows:
            store = folder / str(rows)
            make_random_store(store, rows, args.dim, SHARD, heldout_every=50)
            for search in args.search:
                command = [sys.executable, __file__, "--one", str(store), search, "--threads", str(args.threads)]
                env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
                done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
                f = json.loads(done.stdout.splitlines()[-1])
                growth = ""
                if search in last:
                    growth = f"{math.log(f['cpu_seconds'] / last[search][1]) / math.log(rows / last[search][0]):.2f}"
                last[search] = rows, f["cpu_seconds"]
                fits &= f["peak_gb"] < MOST_GB
                print(
                    f"{rows:>9,} {search:>7} {f['seconds']:>9.1f} {f['cpu_seconds']:>9.1f} {f['peak_gb']:>8.2f} "
                    f"{f['kept']:>6.3f} {growth:>9}",
                    flush=True,
                )
            if set(args.search) == {"exact", "faiss"}:
                print(f"{'':>9} same pair by FAISS as by the exact search: {100 * agreement(store):.1f} %", flush=True)
            shutil.rmtree(store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if fits else 1


if __name__ == "__main__":
    raise SystemExit(main())
