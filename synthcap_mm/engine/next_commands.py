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
    lines = {
        "test on photos": command("test", *model),
        "caption photos of yours": command("caption", *model, "PHOTOS", "--out", folder / "captions.jsonl"),
        "export into one folder": command("export", *model, folder / "export"),
    }
    if not cfg.get("test_dataloader"):
        lines["test on photos"] = "the config has no test set; docs/data.md has how to make one"
    return "\n".join(["next:", *(f"  # {what}\n  {line}" for what, line in lines.items())])


def _short(path: str) -> str:
    """A path as it may be typed here."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
