"""Kill synthesis at random moments, finish it, and compare the store with an uninterrupted one; see the .sh beside.

What is killed is the whole job (launcher and ranks at once: the machine is gone), or, in every other run on two
ranks, one rank only (the launcher then ends the other). A moment is a random time between the first sign of work,
the folder of tables, and the length of an undisturbed run. A run that was over before its moment came does not count and is
repeated.

For each run: which shards were there when it was killed, and
whether their files were touched afterwards (inode and time of change); whether the finished store's features,
captions, tags, pairs, kept pictures and tokenizer are the bytes of the uninterrupted store.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORE = Path("data/miniscenes/pairs")


def content(store: Path) -> dict[str, str]:
    """What must be equal: name → checksum."""
    files = [p for p in store.glob("tables/*/[0-9]*") if p.suffix in (".arrow", ".tar", ".json")]
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def whole_shards(store: Path) -> dict[str, tuple[int, int]]:
    """The shards that are there: name → inode and time of change."""
    # A tar of pictures counts once the Arrow file beside it is there.
    files = [p for p in store.glob("tables/*/[0-9]*") if p.suffix != ".tar" or p.with_suffix(".arrow").exists()]
    return {p.relative_to(store).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def start(folder: Path, ranks: int, options: list[str]) -> subprocess.Popen:
    tool = [sys.executable, str(ROOT / "tools" / "synthesize.py")]
    if ranks > 1:
        tool = ["bash", str(ROOT / "tools" / "dist_synthesize.sh")]
    command = [*tool, str(ROOT / "configs" / "synthcap_mini.py"), *([str(ranks)] if ranks > 1 else []), *options]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log = open(folder / "log.txt", "a")  # noqa: SIM115 - the process has it
    return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_whole(folder: Path, ranks: int, options: list[str]) -> float:
    """Run to the end; returns the seconds from the first sign of work to the end."""
    process = start(folder, ranks, options)
    while not (folder / STORE / "tables").is_dir() and process.poll() is None:
        time.sleep(0.005)
    begun = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"a run failed; its log is {folder / 'log.txt'}")
    return time.monotonic() - begun


def run_killed(folder: Path, ranks: int, options: list[str], moment: float, one_rank: bool) -> bool:
    """Start and kill; returns whether it was still at work."""
    process = start(folder, ranks, options)
    while not (folder / STORE / "tables").is_dir() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    if process.poll() is not None:
        return False
    if one_rank:
        victims = children(process.pid)
        if not victims:
            return False
        os.kill(random.choice(victims), signal.SIGKILL)
        process.wait()
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return not (folder / STORE / "store.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="killed runs for each number of ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the stores; kept. Default: a temporary one")
    args = parser.parse_args()
    random.seed(args.seed)
    options = [
        "--cfg-options", f"synthesis.captions.num={args.captions}", "synthesis.shard_size=16", "synthesis.image_batch=8",
        "synthesis.keep_images=True",
    ]  # fmt: skip
    folder = Path(args.folder or tempfile.mkdtemp(prefix="synthcap_kill_"))
    begun = time.monotonic()
    wrong = 0
    reference: dict[str, str] = {}
    for ranks in args.ranks:
        whole = folder / f"whole_{ranks}"
        whole.mkdir(parents=True)
        seconds = run_whole(whole, ranks, options)
        found = content(whole / STORE)
        reference = reference or found
        same = found == reference
        wrong += not same
        print(
            f"{ranks} rank(s), undisturbed: {len(found)} files, {seconds:.1f} s of work; "
            f"{'the same bytes as on 1 rank' if ranks > 1 and same else 'DIFFERENT' if not same else 'the reference'}",
            flush=True,
        )
        equal = untouched = kills = kept = 0
        by_kind = {"job": 0, "rank": 0}
        run = 0
        while run < args.runs:
            place = folder / f"run_{ranks}_{run}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            one_rank = ranks > 1 and run % 2 == 1
            if not run_killed(place, ranks, options, random.uniform(0, seconds), one_rank):
                continue
            before = whole_shards(place / STORE)
            kills += 1
            kept += len(before)
            by_kind["rank" if one_rank else "job"] += 1
            run_whole(place, ranks, options)
            after = {n: ((place / STORE / n).stat().st_ino, (place / STORE / n).stat().st_mtime_ns) for n in before}
            equal += content(place / STORE) == reference
            untouched += after == before
            wrong += (content(place / STORE) != reference) + (after != before)
            print(
                f"  run {run}: {'one rank' if one_rank else 'all'} killed with {len(before)} of "
                f"{len(reference) - 1} shards whole; bytes {'equal' if content(place / STORE) == reference else 'DIFFER'}, "
                f"{'none' if after == before else 'SOME'} of them made again",
                flush=True,
            )
            if not args.folder:
                shutil.rmtree(place)
            run += 1
        print(
            f"{ranks} rank(s): {kills} runs killed ({by_kind['job']} as a whole, {by_kind['rank']} one rank of it), "
            f"{kept / kills:.0f} shards whole at the kill on average; {equal} of {kills} stores byte-identical to the "
            f"uninterrupted one, {untouched} of {kills} without a finished shard made again",
            flush=True,
        )
    if not args.folder:
        shutil.rmtree(folder)
    print(f"{time.monotonic() - begun:.0f} s in all; {wrong or 'nothing'} wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
