"""A dry run: a few batches through the real thing, in a folder that goes away again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import all_gather_object

from synthcap_mm.pairs.image_shards import ImageShards
from synthcap_mm.pairs.plan import Plan
from synthcap_mm.pairs.progress import Progress
from synthcap_mm.pairs.refining import refined
from synthcap_mm.stores import StoreWriter
from synthcap_mm.stores.schema import captions_table

if TYPE_CHECKING:
    from synthcap_mm.pairs.factory import PairFactory


def finished(device: torch.device) -> float:
    """The time when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _over_all_ranks(seconds: float) -> float:
    """Seconds a row of all ranks together, from this rank's."""
    return 1 / sum(1 / max(s, 1e-9) for s in all_gather_object(seconds))


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that ``work`` takes, the second time."""
    work()
    start = finished(device)
    work()
    return finished(device) - start


def measure(factory: PairFactory, job: Any, plan: Plan, batches: int) -> None:
    """Fill in a plan's seconds and bytes a row.

    Args:
        factory: whose plan it is.
        job: what it works with.
        plan: to be filled in.
        batches: batches of images, after one to warm up with.
    """
    device = factory.device
    with tempfile.TemporaryDirectory(prefix="synthcap_dry_run_") as folder:
        writer = StoreWriter(folder, job.header)
        if stage := plan.stage("text"):
            part = job.captions[: factory.text_batch]
            texts = [c.text for c in part]
            feats: list[np.ndarray] = []
            seconds = _timed(lambda: feats.append(job.encoder.encode_text(texts).float().cpu().numpy()), device)
            stage.seconds = _over_all_ranks(seconds / len(part))
            rows = captions_table([c.id for c in part], texts, [c.group for c in part], [False] * len(part), feats[-1])
            stage.row_bytes = writer.write("captions", 0, rows)["bytes"] / len(part)
        if stage := plan.stage("images"):
            rows = factory._image_rows(job, 0)[: (batches + 1) * factory.image_batch]
            warm, rest = rows[: factory.image_batch], rows[factory.image_batch :] or rows
            with Progress("measuring", len(warm) + len(rest), 0, stage.unit) as bar:
                maker = ImageShards(writer, job.reader, bar, factory.image_batch, job.image_format, device)
                maker.make([0], lambda shard: warm, job.load)
                start = finished(device)
                maker.make([1], lambda shard: rest, job.load)
                seconds = (finished(device) - start) / len(rest)
            stage.seconds = _over_all_ranks(seconds)
            record = writer.record("images", 1)
            stage.row_bytes = record["bytes"] / len(rest)
            if kept := plan.stage("kept images"):
                kept.row_bytes = writer.record("images_tar", 1)["bytes"] / len(rest)
        if stage := plan.stage("refine"):
            # Its time does not depend on what the features are.
            size = min(1024, stage.sizes[0])
            bank_size = min(job.refine.get("bank_size", 4096), sum(stage.sizes))
            image, text = (_random(size + bank_size, job.encoder.embed_dim, seed, device) for seed in (0, 1))
            groups = torch.arange(size + bank_size, device=device)
            bank = SimpleNamespace(image=image[size:], text=text[size:], groups=groups[size:])
            seconds = _timed(lambda: refined(image[:size], text[:size], groups[:size], bank, job.refine), device)
            stage.seconds = _over_all_ranks(seconds / size)
    plan.measured = True


def _random(count: int, dim: int, seed: int, device: torch.device) -> torch.Tensor:
    features = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(features, dim=1).to(device)
