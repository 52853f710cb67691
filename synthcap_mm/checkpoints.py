"""The checkpoints in a work dir: the last one, and the best."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import FlexibleRunner, Runner


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to go on from, or ``None``.

    The one that MMEngine's ``last_checkpoint`` names; where that file was lost or
    cut short by a kill, the last epoch's.
    """
    pointer = Path(work_dir) / "last_checkpoint"
    named = Path(pointer.read_text().strip() or "/nowhere") if pointer.is_file() else None
    if named is not None and named.is_file():
        return str(named)
    epochs = {int(p.stem.split("_")[1]): p for p in Path(work_dir).glob("epoch_*.pth") if p.stem[6:].isdigit()}
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
