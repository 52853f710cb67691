"""Speed, exactness and memory of TextMemoryProjection's attention.

    python benchmarks/memory_projection.py [--rows 200000 --dim 512 --batch 64 --rounds 7]

Part 1 times the fused form against ``softmax(x @ M.T / T) @ M``, turn by turn in one run, and keeps the best of
each; it asks for a difference of at most 1e-5 and a ratio of at most 0.6. Part 2 runs forward and backward on a
memory of 600,000 rows, each in a process of its own, and watches by how much the process's resident memory
grows: far less than the (batch x memory) matrix would take; the plain form beside them shows that the matrix would be
seen. The exit status is 1 where a promise is broken. Figures depend on the machine and on what else it does;
``OMP_NUM_THREADS`` sets the threads. The promise is for a CPU, and part 2 needs Linux.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import TextMemoryProjection
from synthcap_mm.structures import PrefixBatch

TEMPERATURE = 0.01
MOST_DIFFERENCE, MOST_RATIO, MOST_SHARE = 1e-5, 0.6, 0.25


def features(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Random unit vectors, made without a second copy."""
    feats = torch.empty(rows, dim).normal_(generator=torch.Generator().manual_seed(seed))
    for piece in feats.split(10_000):
        piece.copy_(F.normalize(piece, dim=1))
    return feats


class ResidentMemory:
    """Within its ``with``, watches the process's resident memory; ``grown`` is in MiB."""

    def __enter__(self) -> ResidentMemory:
        self.before = self.highest = self._read()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    @property
    def grown(self) -> float:
        return self.highest - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.highest = max(self.highest, self._read())

    @staticmethod
    def _read() -> float:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 2**10
        raise RuntimeError("/proc/self/status has no VmRSS; the memory check needs Linux")


def compare_speed(rows: int, dim: int, batch: int, rounds: int) -> bool:
    memory = features(rows, dim, 0)
    # Half of the queries lie near rows of the memory (sharp weights), half anywhere (soft ones).
    query = features(batch, dim, 1)
    query[::2] = F.normalize(memory[:batch:2] + 0.7 * query[::2], dim=1)
    neck = TextMemoryProjection(temperature=TEMPERATURE)
    neck.bind(CaptionMemory(memory))
    del memory
    queries = PrefixBatch(query, "real")

    def plain() -> torch.Tensor:
        return torch.softmax(query @ neck.memory.features.T / TEMPERATURE, dim=-1) @ neck.memory.features

    def fused() -> torch.Tensor:
        return neck(queries, "predict")[0].feats

    forms: dict[str, Callable[[], torch.Tensor]] = {"plain": plain, "fused": fused}
    best = dict.fromkeys(forms, float("inf"))
    with torch.no_grad():
        difference = (F.normalize(plain(), dim=1) - fused()).abs().max().item()
        for _ in range(rounds):
            for name, form in forms.items():
                begin = time.perf_counter()
                form()
                best[name] = min(best[name], time.perf_counter() - begin)
    ratio = best["fused"] / best["plain"]
    print(f"memory {rows} x {dim}, batch {batch}, {torch.get_num_threads()} threads, best of {rounds}")
    print(f"  plain                 {best['plain']:8.3f} s")
    print(f"  TextMemoryProjection  {best['fused']:8.3f} s   ratio {ratio:.2f} (at most {MOST_RATIO})")
    print(f"  greatest difference   {difference:8.1e}     (at most {MOST_DIFFERENCE})")
    return ratio <= MOST_RATIO and difference <= MOST_DIFFERENCE


def measure_memory(what: str, rows: int, dim: int, batch: int) -> None:
    """Print by how many MiB resident memory grew, and the seconds; run in a process of its own."""
    neck = TextMemoryProjection(temperature=TEMPERATURE, exclude_self="excluding" in what)
    memory = features(rows, dim, 0)
    neck.bind(CaptionMemory(memory, rows=torch.arange(rows)))
    del memory
    query = features(batch, dim, 1).requires_grad_("backward" in what)
    small = PrefixBatch(query[:2], "pseudo", memory_rows=torch.arange(2))

    def work(queries: PrefixBatch) -> None:
        out = neck(queries, "train")[0].feats
        if out.requires_grad:
            out.sum().backward()

    if what == "plain":
        neck.forward = lambda queries, phase: (
            queries.replace(
                feats=torch.softmax(queries.feats @ neck.memory.features.T / TEMPERATURE, -1) @ neck.memory.features
            ),
            {},
        )
    # Two rows first: thread pools and library buffers are none of the batch's business.
    work(small)
    query.grad = None
    begin = time.perf_counter()
    with ResidentMemory() as watched:
        work(PrefixBatch(query, "pseudo", memory_rows=torch.arange(batch)))
    print(f"{watched.grown} {time.perf_counter() - begin}")


def compare_memory(rows: int, dim: int, batch: int) -> bool:
    matrix = batch * rows * 4 / 2**20
    print(f"memory {rows} x {dim}, batch {batch}: the (batch x memory) matrix would take {matrix:.0f} MiB")
    kept = True
    for what in ("forward", "forward excluding", "forward + backward", "forward + backward excluding", "plain"):
        command = [sys.executable, __file__, "--measure", what, "--big-rows", str(rows), "--dim", str(dim)]
        done = subprocess.run([*command, "--big-batch", str(batch)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"measuring {what!r} failed:\n{done.stderr}")
        grown, seconds = map(float, done.stdout.split())
        note = "(for comparison: it has the matrix)" if what == "plain" else f"(at most {MOST_SHARE * matrix:.0f})"
        print(f"  {what:28s} grew by {grown:6.0f} MiB {note}, {seconds:.1f} s")
        # The plain form must show up, else this way of reading sees nothing.
        kept &= grown >= 0.9 * matrix if what == "plain" else grown <= MOST_SHARE * matrix
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the memory in part 1")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="batch in part 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--big-rows", type=int, default=600_000, help="rows of the memory in part 2")
    parser.add_argument("--big-batch", type=int, default=256, help="batch in part 2")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_memory(args.measure, args.big_rows, args.dim, args.big_batch)
        return 0
    fast = compare_speed(args.rows, args.dim, args.batch, args.rounds)
    small = compare_memory(args.big_rows, args.dim, args.big_batch)
    print("promises kept" if fast and small else "PROMISES BROKEN")
    return 0 if fast and small else 1


if __name__ == "__main__":
    sys.exit(main())
