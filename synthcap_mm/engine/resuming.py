"""What MMEngine takes from a checkpoint to go on from it: checked, since anybody may have made the file.

MMEngine believes a checkpoint: it deletes the paths that the file names, and lets the file's schedules replace its own
attributes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from synthcap_mm.checkpoints import checkpoint_folder
from synthcap_mm.engine.schedules import LENGTHS, resume_schedules
from synthcap_mm.errors import UserError
from synthcap_mm.weights_files import not_finite


class ResumeHook(Hook):
    """Checks a checkpoint that a training is resumed from, before anything else sees it."""

    priority = "HIGHEST"

    def after_load_checkpoint(self, runner: Runner | FlexibleRunner, checkpoint: dict[str, Any]) -> None:
        """Check it."""
        if getattr(runner, "_resume", False) and getattr(runner, "_train_loop", None) is not None:
            make_resumable(runner, checkpoint)


def make_resumable(runner: Runner | FlexibleRunner, checkpoint: dict[str, Any]) -> None:
    """Leave in a checkpoint only what a training can be resumed from.

    Args:
        runner: whose model, optimizer and schedules are built.
        checkpoint: of MMEngine; its ``message_hub`` is changed.

    Raises:
        UserError: for a field that is of another kind than this training's.
    """
    meta = _dict(checkpoint.get("meta"), "meta")
    for name in ("epoch", "iter"):
        _check(type(meta.get(name)) is int and 0 <= meta[name] < 2**53, f"meta.{name}")
    seed = meta.get("seed")
    _check(seed is None or (type(seed) is int and 0 <= seed < 2**32), "meta.seed")
    checkpoint["message_hub"] = _history(runner, _dict(checkpoint.get("message_hub"), "message_hub"))
    if "param_schedulers" in checkpoint and runner.param_schedulers is not None:
        _check_schedules(runner.param_schedulers, checkpoint["param_schedulers"], "param_schedulers")
    if "optimizer" in checkpoint:
        sharded = isinstance(runner.model, FullyShardedDataParallel)
        _check_optimizer(runner.optim_wrapper, checkpoint["optimizer"], sharded)
        resume_schedules(runner, checkpoint)


def _history(runner: Runner | FlexibleRunner, hub: dict[str, Any]) -> dict[str, Any]:
    """What was logged, and the best validation; the rest of a ``message_hub`` the run knows itself."""
    scalars, info, resumed = (
        _dict(hub.get(name), f"message_hub.{name}") for name in ("log_scalars", "runtime_info", "resumed_keys")
    )
    kept = {
        name: value
        for name, value in scalars.items()
        if isinstance(name, str) and name.isprintable() and isinstance(value, HistoryBuffer)
    }
    known = _best(checkpoint_folder(runner.work_dir, runner.cfg), info)
    ids = info.get("keep_ckpt_ids")
    if isinstance(ids, list) and all(type(number) is int and number >= 0 for number in ids):
        known["keep_ckpt_ids"] = list(ids)
    names = {name: value for name, value in resumed.items() if type(value) is bool and (name in kept or name in known)}
    return {"log_scalars": kept, "runtime_info": known, "resumed_keys": names}


def _best(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """The best validations whose checkpoints are in the run's own folder: MMEngine deletes one for a better one."""
    best = {}
    for key, path in info.items():
        if not (isinstance(key, str) and key.startswith("best_ckpt") and isinstance(path, str)):
            continue
        name, score_key = re.split(r"[/\\]", path)[-1], key.replace("best_ckpt", "best_score", 1)
        if re.fullmatch(r"best_[^\0\n]*\.pth", name) and _is_number(info.get(score_key)) and (folder / name).is_file():
            best |= {key: str(folder / name), score_key: info[score_key]}
    return best


def _check_schedules(built: Any, states: Any, where: str) -> None:
    """Schedules' states have the attributes of the built ones, of the same kinds."""
    if isinstance(built, dict):
        for name, schedules in built.items():
            _check_schedules(schedules, _dict(states, where).get(name), f"{where}.{name}")
        return
    _check(isinstance(states, list) and len(states) == len(built), where)
    for number, (schedule, state) in enumerate(zip(built, states)):
        expected = schedule.state_dict()
        for name, value in _dict(state, f"{where}[{number}]").items():
            _check(name in expected and _alike(value, expected[name]), f"{where}[{number}].{name}")
        for name in {"begin", "by_epoch", "step_size"} & expected.keys() & state.keys():
            _check(state[name] == expected[name], f"{where}[{number}].{name}")
        for name in {*LENGTHS} & state.keys():
            _check(type(state[name]) is int and state[name] > 0, f"{where}[{number}].{name}")
        for name in {"last_step", "_global_step"} & state.keys():
            _check(type(state[name]) is int and state[name] >= 0, f"{where}[{number}].{name}")


def _check_optimizer(wrapper: OptimWrapper, state: Any, sharded: bool) -> None:
    """An optimizer's state has the groups of the built one, and tensors of its parameters' shapes.

    Of a sharded model the file has the parameters' names, and whole tensors, which no rank has.
    """
    groups, built = _dict(state, "optimizer").get("param_groups"), wrapper.param_groups
    _check(isinstance(groups, list) and len(groups) == len(built), "optimizer.param_groups")
    parameters: dict[Any, torch.Tensor] = {}
    for number, (group, expected) in enumerate(zip(groups, built)):
        where = f"optimizer.param_groups[{number}]"
        names = _dict(group, where).get("params")
        kind = str if sharded else int
        _check(isinstance(names, list) and all(type(name) is kind for name in names), f"{where}.params")
        _check(sharded or len(names) == len(expected["params"]), f"{where}.params")
        parameters |= dict.fromkeys(names) if sharded else zip(names, expected["params"])
        _check_group(group, expected, where)
    for key, values in _dict(state.get("state"), "optimizer.state").items():
        _check(key in parameters, f"optimizer.state.{key}")
        for name, value in _dict(values, f"optimizer.state.{key}").items():
            _check(_fits(value, parameters[key]), f"optimizer.state.{key}.{name}")
    if state.get("base_param_settings") is not None:
        _check_group(state["base_param_settings"], wrapper.base_param_settings, "optimizer.base_param_settings")
    for name, value in _dict(state.get("loss_scaler", {}), "optimizer.loss_scaler").items():
        _check(_is_number(value), f"optimizer.loss_scaler.{name}")


def _check_group(group: Any, expected: Any, where: str) -> None:
    for name, value in _dict(group, where).items():
        fits = name == "params" or (name in _dict(expected, where) and _alike(value, expected[name]))
        _check(fits, f"{where}.{name}")


def _fits(value: Any, parameter: torch.Tensor | None) -> bool:
    """A finite tensor of the parameter's shape, of its rows or columns, or one number."""
    if not isinstance(value, torch.Tensor):
        return value is None or _is_number(value)
    if not_finite({"": value}):
        return False
    shape, whole = value.shape, value.shape if parameter is None else parameter.shape
    return shape == () or (len(shape) == len(whole) and all(a in (1, b) for a, b in zip(shape, whole)))


def _alike(value: Any, expected: Any) -> bool:
    """Whether a plain value is of the same kind as another: numbers for numbers, as many in a sequence."""
    if isinstance(expected, bool) or expected is None:
        return type(value) is bool or (value is None and not isinstance(expected, bool))
    if isinstance(expected, int | float):
        return _is_number(value)
    if isinstance(expected, list | tuple):
        return type(value) is type(expected) and len(value) == len(expected) and all(map(_alike, value, expected))
    if isinstance(expected, dict):  # the milestones of a schedule
        return isinstance(value, dict) and dict(value) == dict(expected)
    return isinstance(expected, str) and value == expected


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _dict(value: Any, where: str) -> dict[str, Any]:
    _check(isinstance(value, dict), where)
    return value


def _check(fits: bool, where: str) -> None:
    if not fits:
        raise UserError(f"the checkpoint cannot be resumed from: its {where} is not what this training would write")
