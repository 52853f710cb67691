"""Checkpoints: read without executing anything in them, and found in a work dir."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.errors import UserError


def read_checkpoint(path: str | Path, what: str = "checkpoint") -> dict[str, Any]:
    """What a checkpoint holds: tensors and plain values.

    MMEngine's own (with the histories of its log, which are passed over), plain state
    dicts, and ``.safetensors`` files.

    Args:
        path: the file.
        what: what it is called in messages. Default ``'checkpoint'``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "pickled objects")
        raise ValueError(
            f"{what} {str(path)!r} holds more than tensors and plain values, which is not executed "
            f"({reason}). If you trust the file, save it anew with its meta and state_dict only"
        ) from error
    except Exception as error:  # safetensors has an error of its own kind
        raise ValueError(f"cannot read the {what} {str(path)!r}: {error}") from error


class _Unread:
    """Stands for what a checkpoint holds beside its weights and is of no use here: histories of the training's log."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _harmless_globals() -> list[Any]:
    """What MMEngine's checkpoints name beside tensors: log histories with their methods, and numpy's numbers."""
    here = importlib.import_module(np.asarray(0).__reduce__()[0].__module__)
    kinds = {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}
    # `getattr` is how a history names its methods; the real one would open everything to a hostile file
    stand_ins = [(_Unread, name) for name in ("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr")]
    harmless: list[Any] = [np.ndarray, np.dtype, *kinds, *stand_ins]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and numpy 2 write it
        harmless += [(getattr(here, name), f"{module}.{name}") for name in ("_reconstruct", "scalar")]
    return harmless


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


def best_checkpoint(runner: Runner | FlexibleRunner) -> str:
    """The checkpoint of the best validation, or the last one where none was chosen.

    Raises:
        UserError: if none was saved.
    """
    from mmengine.hooks import CheckpointHook

    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None)
    if best is None and hook is not None and getattr(hook, "best_ckpt_path_dict", None):
        best = next(iter(hook.best_ckpt_path_dict.values()))
    best = best or runner.message_hub.runtime_info.get("best_ckpt") or getattr(hook, "last_ckpt", None)
    if best is None:
        raise UserError(
            "test_best: no checkpoint was saved; set default_hooks.checkpoint.save_best='CIDEr', or test_best=False"
        )
    return str(best)
