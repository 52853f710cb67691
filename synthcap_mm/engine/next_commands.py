"""What one types after a training."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config

from synthcap_mm.commands import command


def next_commands(cfg: Config, work_dir: str, checkpoint: str) -> str:
    """The commands that test, caption and export with a checkpoint, to be pasted.

    The config is the copy in the work dir, which has the options of the command line in it.

    Args:
        cfg: the config that was trained.
        work_dir: the training's.
        checkpoint: file of the best, or the last one.
    """
    folder = Path(_short(work_dir))
    model = folder / Path(cfg.filename).name, _short(checkpoint)
    lines = ["next:"]
    if cfg.get("test_dataloader"):
        lines += ["  # test on photos", f"  {command('test', *model)}"]
    else:
        lines += ["  # to test on photos, the config needs a test set: docs/data.md, 'Your own photos to test on'"]
    lines += ["  # caption photos of yours"]
    lines += [f"  {command('caption', *model, 'PHOTOS', '--out', folder / 'captions.jsonl')}"]
    lines += ["  # export into one folder, which needs nothing else"]
    lines += [f"  {command('export', *model, folder / 'export')}"]
    return "\n".join(lines)


def _short(path: str) -> str:
    """A path as it may be typed here."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
