"""Time and memory of looking at a large store's pairs, on random features.

    python benchmarks/inspection.py [--rows 500000 --dim 512 --sample 48 --work-dir FOLDER]

A store of N captions, images and pairs is written; in a process of its own it is looked at as tools/inspect_pairs.py
does (a sample, histograms of all scores, the modality gap of 1,000 pairs) and the page is written, without pictures,
which the store did not keep. Peak memory is the process's largest resident set, PyTorch and mapped pages included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_store import make_random_store


def run_one(store: str, sample: int) -> None:
    """In a process of its own: look at the store, and print figures as JSON."""
    from synthcap_mm.store import Store
    from synthcap_mm.synthesis.inspection import inspect_store
    from synthcap_mm.synthesis.page import make_page

    start = time.perf_counter()
    findings = inspect_store(Store.open(store), sample=sample)
    page = make_page("random pairs", findings, lambda rows: [None] * len(rows))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "page_mb": len(page.encode()) / 1e6}))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--sample", type=int, default=48)
    parser.add_argument("--work-dir", help="folder for the store (default: a temporary one)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.sample)
        return
    with tempfile.TemporaryDirectory(dir=args.work_dir) as folder:
        store = Path(folder) / "pairs"
        make_random_store(store, args.rows, args.dim, 1024, heldout_every=50)
        command = [sys.executable, __file__, "--one", str(store), "--sample", str(args.sample)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{args.rows:,} pairs of {args.dim} dimensions: {figures['seconds']:.1f} s, peak {figures['peak_gb']:.2f} GB, "
        f"page {figures['page_mb']:.2f} MB"
    )


if __name__ == "__main__":
    main()
