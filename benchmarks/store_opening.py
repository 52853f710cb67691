"""How long a large store takes to open and to read from, with few open files.

Stores of random features in the real format; the large one is made of links to a few shards. Measured in processes of
their own, under ``ulimit -n 1024``: opening, the first caption's feature, and 2,000 samples of a dataset's kind
(caption, image, tags) at random places. Then what a million rows of a store cost when a process first uses their
shards (every offset is checked), and what comparing all checksums costs (``synthcap-mm store --check``).

    python benchmarks/store_opening.py [--rows 566747 20000000] [--dim 64]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from random_store import make_random_store, multiply

SHARD = 1024


def measure(store: str) -> None:
    """Print seconds of opening and of reading, and most open files."""
    from synthcap_mm.store import Store
    from synthcap_mm.store.tables import forget_shards, is_undamaged, read_shard

    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    start = time.perf_counter()
    opened = Store.open(store)
    opening = time.perf_counter() - start
    start = time.perf_counter()
    rows = len(opened.captions)
    opened.captions.feature(0)
    first = time.perf_counter() - start
    places = np.random.default_rng(0).integers(rows, size=2000)
    start = time.perf_counter()
    for row in places.tolist():
        opened.captions.value("text", row), opened.captions.feature(row), opened.images.feature(row), opened.tags(row)
    reading = (time.perf_counter() - start) / len(places)
    files = len(list(Path("/proc/self/fd").iterdir()))
    paths = [path for name in opened.tables if name != "tokenizer" for path in opened.paths(name)]
    forget_shards()
    start = time.perf_counter()
    for path in paths:
        read_shard(path)
    using = 1e6 / rows * (time.perf_counter() - start)
    maps = sum(".arrow" in line for line in Path("/proc/self/maps").read_text().splitlines())
    some = paths[:: max(1, len(paths) // 64)]
    start = time.perf_counter()
    assert all(map(is_undamaged, some))
    checking = 1e6 / rows * (time.perf_counter() - start) * len(paths) / len(some)
    figures = {"rows": rows, "open_s": opening, "first_s": first, "sample_us": 1e6 * reading, "files": files}
    print(json.dumps({**figures, "using_s": using, "checking_s": checking, "shards": len(paths), "maps": maps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[566_747, 20_000_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        small = make_random_store(Path(folder, "small"), 8 * SHARD, args.dim, SHARD)
        for rows in args.rows:
            store = multiply(small, Path(folder, str(rows)), -(-rows // (8 * SHARD)))
            found = subprocess.run(
                [sys.executable, __file__, "--measure", str(store)], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(found.stdout)
            print(
                f"{found['rows']:>10} rows: open {found['open_s']:.3f} s, first feature {found['first_s']:.3f} s, "
                f"{found['sample_us']:.0f} us a random sample, {found['files']} files open then; a million rows: first use "
                f"{found['using_s']:.2f} s, checksums {found['checking_s']:.1f} s; {found['shards']} shards, "
                f"{found['maps']} maps"
            )


if __name__ == "__main__":
    main()
