"""What a test reports: a table of metrics, and a gallery of its first photos."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.nearest_caption import floor_of
from synthcap_mm.registry import DATASETS
from synthcap_mm.structures import CaptionSample


class KeepSamplesHook(Hook):
    """Keeps the first samples of a test, for the gallery.

    Args:
        num: how many.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self.samples: list[CaptionSample] = []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[CaptionSample] | None = None
    ) -> None:
        """Keep samples until there are enough."""
        self.samples += list(outputs or [])[: max(0, self.num - len(self.samples))]


def metrics_table(
    metrics: Mapping[str, float],
    skipped: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
) -> str:
    """Metrics as a text table, one a line; then skipped metrics with the reason, notes, and warnings.

    Where the metrics have floors (``'nearest/CIDEr'``), these are a second column.
    """
    skipped = skipped or {}
    floors = {name: metrics[floor_of(name)] for name in metrics if floor_of(name) in metrics}
    rows = [name for name in metrics if name not in set(map(floor_of, floors))]
    width = max(map(len, [*rows, *skipped]), default=0)
    lines = [f"  {'':<{width}}  captioner  nearest training caption"] if floors else []
    value = "9.2f" if floors else "8.2f"
    lines += [
        f"  {name:<{width}}  {float(metrics[name]):{value}}" + (f"  {floors[name]:8.2f}" if name in floors else "")
        for name in rows
    ]
    lines += [f"  {name:<{width}}  skipped: {why}" for name, why in skipped.items()]
    lines += [f"  {name}: {note}" for name, note in [*(notes or {}).items(), *(warnings or {}).items()]]
    return "\n".join(lines)


def save_test_gallery(cfg: Config, samples: Sequence[CaptionSample], path: Path) -> Path | None:
    """Draw test photos with their captions.

    The photos come from the entry of ``cfg.photo_stores`` whose store the test set reads. Without the photos there
    is no gallery, and the metrics stay, since they need the store only.

    Args:
        cfg: the config.
        samples: what was written.
        path: file to write.

    Returns:
        ``path``, or ``None`` after logging why there is no gallery.
    """
    from synthcap_mm.evaluation.gallery import save_gallery

    store = cfg.test_dataloader.dataset.get("store")
    entry = next((e for e in cfg.get("photo_stores", []) if e["store"] == store), None)
    if entry is None:
        print_log(f"no gallery: no entry of photo_stores says where the photos of {store} are", logger="current")
        return None
    try:  # the photos may be missing, damaged or different from those in the store
        photos = DATASETS.build(entry["photos"])
        place = {key: i for i, key in enumerate(photos.keys)}
        save_gallery(samples, lambda key: photos.load(place[key]), path, title=cfg.config_name)
    except (
        UserError,
        OSError,
        ValueError,
        LookupError,
    ) as error:
        print_log(f"no gallery: {type(error).__name__}: {error}", logger="current", level=logging.WARNING)
        return None
    return path
