"""What making a store would cost: a few batches through the real thing, in a folder that goes away again."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log

from synthcap_mm.files import temporary_folder
from synthcap_mm.progress import duration, megabytes
from synthcap_mm.synthesis.run import Stage, Worker, run_stages
from synthcap_mm.synthesis.synthesis import Synthesis


def describe_plan(stages: Sequence[Stage]) -> str:
    """A table of the stages: shards that are there and to make."""
    lines = [f"  {'stage':<12}{'shards':>8}{'there':>8}{'to make':>9}"]
    for stage in stages:
        missing = stage.missing()
        todo = f"   {sum(stage.sizes[i] for i in missing)} {stage.unit}" if missing else ""
        count = len(stage.sizes)
        lines.append(f"  {stage.name:<12}{count:>8}{count - len(missing):>8}{len(missing):>9}{todo}")
    return "\n".join(lines)


def measure_synthesis(synthesis: Synthesis, batches: int = 4) -> dict[str, float]:
    """Print the plan, make a few batches of each stage, and print the expected time and disk of the whole.

    Args:
        synthesis: what would be made.
        batches: batches of images that are made, after one to warm up.

    Returns:
        ``seconds`` and ``bytes`` of what is still to make.
    """
    stages = synthesis.stages()
    print_log(f"plan for the store {synthesis.view}\n{describe_plan(stages)}", logger="current")
    with temporary_folder() as folder:
        _run_small(synthesis, Path(folder, "warm"), 1)
        measured = _run_small(synthesis, Path(folder, "measured"), batches)
    lines, seconds, size = [], 0.0, 0.0
    for stage in stages:
        rows = sum(stage.sizes[i] for i in stage.missing())
        if not rows or stage.name not in measured or stage.small:
            continue
        per_row, bytes_per_row = measured[stage.name]
        seconds, size = seconds + rows * per_row, size + rows * bytes_per_row
        lines.append(
            f"  {stage.name:<12}{duration(rows * per_row)}, {1 / max(per_row, 1e-9):.1f} {stage.unit}/s, "
            f"{megabytes(rows * bytes_per_row)}"
        )
    free = shutil.disk_usage(_existing(synthesis.store)).free
    lines.append(
        f"  {'in all':<12}{duration(seconds)} on one worker like this, {megabytes(size)}; {megabytes(free)} free"
    )
    if size > free:
        lines.append("  WARNING     that is more than is free")
    print_log("measured:\n" + "\n".join(lines) + "\nNothing was made: this was a dry run.", logger="current")
    return {"seconds": seconds, "bytes": size}


def _run_small(synthesis: Synthesis, store: Path, batches: int) -> dict[str, tuple[float, float]]:
    """Seconds and bytes a row of each stage, of as many captions (and photos of a pool) as some batches take."""
    small = copy.copy(synthesis)
    rows = batches * synthesis.image_batch
    for cached in ("tables", "text_keys", "spans", "_heldout"):
        small.__dict__.pop(cached, None)
    small.store, small.captions = store, synthesis.captions[: max(2, rows)]
    if synthesis.retrieves:
        small.pool = _FirstPhotos(synthesis.pool, max(rows, synthesis.per_caption))
    measured = {}
    for stage in small.stages():
        start = time.perf_counter()
        run_stages([stage], Worker())
        seconds = time.perf_counter() - start
        count = max(1, sum(stage.sizes))
        size = sum(file.stat().st_size for table in stage.tables for file in table.folder.iterdir())
        measured[stage.name] = (seconds / count, size / count)
    return measured


class _FirstPhotos:
    """The first photos of a source."""

    def __init__(self, photos: object, count: int) -> None:
        self._photos, self.keys = photos, list(photos.keys)[:count]

    def __len__(self) -> int:
        return len(self.keys)

    def __getattr__(self, name: str) -> object:
        return getattr(self._photos, name)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
