"""The checkpoints in a work dir: the last one, and the best."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner


def checkpoint_folder(work_dir: str, cfg: Config) -> Path:
    """Where a training writes checkpoints: its work dir, or a folder of that name in the hook's ``out_dir``.

    Args:
        work_dir: the work dir.
        cfg: the config.
    """
    out_dir = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    return Path(work_dir) if out_dir in (None, work_dir) else Path(out_dir, os.path.basename(work_dir.rstrip(os.sep)))


def latest_checkpoint(work_dir: str, cfg: Config) -> str | None:
    """The checkpoint to go on from, or ``None``.

    The one in the training's own folder that has the name in MMEngine's ``last_checkpoint``. The path there is not
    followed: of a work dir that was copied or moved, it leads to another training. Where that file was lost or cut
    short by a kill, the last epoch's.

    Args:
        work_dir: see :func:`checkpoint_folder`.
        cfg: see there.
    """
    pointer, folder = Path(work_dir, "last_checkpoint"), checkpoint_folder(work_dir, cfg)
    name = Path(pointer.read_text().strip()).name if pointer.is_file() else ""
    if (folder / name).is_file():
        return str(folder / name)
    epochs = {int(p.stem.split("_")[1]): p for p in folder.glob("epoch_*.pth") if p.stem[6:].isdigit()}
    return str(epochs[max(epochs)]) if epochs else None


def best_checkpoint(runner: Runner | FlexibleRunner) -> str | None:
    """The checkpoint of the best validation, or the last one where none was chosen; ``None``: none was saved."""
    from mmengine.hooks import CheckpointHook

    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None)
    if best is None and hook is not None and getattr(hook, "best_ckpt_path_dict", None):
        best = next(iter(hook.best_ckpt_path_dict.values()))
    best = best or runner.message_hub.runtime_info.get("best_ckpt") or getattr(hook, "last_ckpt", None)
    return None if best is None else str(best)
