"""Step time and memory of the flagship's training, at several batches, in bfloat16.

Captioner, optimizer and precision are those of configs/synthcap_coco.py; captions and features are random, and the
memory has as many rows as COCO's training captions. A step is all that training does with samples that are read:
tokens, padding, memory projection, forward, backward, clipping, AdamW. The median of the timed steps; peak memory is
what torch allocated on the GPU (on a CPU: the process's most resident memory so far).

    python benchmarks/training_step.py [--batches 64 128 256 512] [--compile] [--json steps.json]

--tiny tries it out with a captioner of one small layer; its figures mean nothing.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from random_store import make_random_store

from synthcap_mm.datasets import SynthPairDataset
from synthcap_mm.engine.dry_run import peak_bytes
from synthcap_mm.files import write_json
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
#: COCO's training captions but the 2 % that are held out.
COCO_ROWS = 555_412


def build(cfg: Config, store: str, rows: int, device: str, compiled: bool) -> tuple[torch.nn.Module, Any]:
    """The captioner and its optimizer wrapper, with a random memory."""
    torch.manual_seed(0)
    model = MODELS.build({**copy.deepcopy(cfg.model), "store": store}).to(device)
    memory = torch.nn.functional.normalize(torch.randn(rows, 512, device=device), dim=1)
    model.bind_memory(CaptionMemory(memory))
    if compiled:
        model.head.decoder.transformer.compile(dynamic=True)  # batches are padded to different lengths
    shell = type("Shell", (), {"model": model})()
    return model.train(), Runner.build_optim_wrapper(shell, copy.deepcopy(cfg.optim_wrapper))


def finished(device: torch.device) -> float:
    """The time when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    model: torch.nn.Module, wrapper: Any, data: SynthPairDataset, batch: int, steps: int, warm_up: int, device: str
) -> dict[str, Any]:
    """Seconds a step, captions a second and peak bytes of one batch size."""
    on_gpu = device != "cpu"
    order = np.random.default_rng(0).integers(0, len(data), (warm_up + steps, batch))
    batches = [[data[int(i)] for i in rows] for rows in order]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number, samples in enumerate(batches):
        begun = finished(torch.device(device))
        model.train_step(samples, wrapper)
        ended = finished(torch.device(device))
        if number >= warm_up:
            seconds.append(ended - begun)
    median = statistics.median(seconds)
    return {"seconds": median, "captions_per_second": batch / median, "peak_bytes": peak_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rows", type=int, default=COCO_ROWS, help="captions of the memory (default: COCO's)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="each batch with torch.compile too")
    parser.add_argument("--tiny", action="store_true", help="a captioner of one small layer, to try the script out")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    init_default_scope("synthcap_mm")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = Config.fromfile(ROOT / "configs" / "synthcap_coco.py")
    if args.tiny:
        cfg.model.head.update(width=32, layers=1, heads=2)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "dtype": cfg.optim_wrapper.dtype,
        "memory_rows": args.rows,
        "tiny": args.tiny,
        "runs": [],
    }
    print(f"{name}; {cfg.optim_wrapper.dtype}; memory of {args.rows:,} captions{'; TINY' if args.tiny else ''}")
    print("  batch  compile    s/step  captions/s  peak GiB  h for 10 epochs of COCO (computed)")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "pairs")
        make_random_store(Path(store), 10_000)
        data = SynthPairDataset(store)
        for compiled in [False, True] if args.compile else [False]:
            for batch in args.batches:
                run: dict[str, Any] = {"batch": batch, "compile": compiled}
                try:
                    model, wrapper = build(cfg, store, args.rows, device, compiled)
                    run |= measure(model, wrapper, data, batch, args.steps, args.warm_up, device)
                except torch.OutOfMemoryError:
                    run["out_of_memory"] = True
                    print(f"  {batch:>5}  {compiled!s:>7}  out of memory")
                else:
                    hours = 10 * COCO_ROWS / run["captions_per_second"] / 3600
                    print(
                        f"  {batch:>5}  {compiled!s:>7}  {run['seconds']:8.4f}  {run['captions_per_second']:10.1f}  "
                        f"{run['peak_bytes'] / 2**30:8.2f}  {hours:.2f}"
                    )
                report["runs"].append(run)
                model = wrapper = None
                if device == "cuda":
                    torch.cuda.empty_cache()
    if args.json:
        write_json(Path(args.json), report)


if __name__ == "__main__":
    main()
