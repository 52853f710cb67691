"""Schedules end with their training, also where one is resumed with another length."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim.scheduler.param_scheduler import INF, ConstantParamScheduler, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner

from synthcap_mm.errors import UserError

#: What a schedule knows of its length.
LENGTHS = ("total_iters", "T_max", "end")


class ScheduleHook(Hook):
    """Warns of a schedule that does not end with the training.

    MMEngine ends a schedule without ``end`` with the training. One with an ``end`` of its own may leave it at rate 0,
    or at a high one. The package's commands add the hook to every run.
    """

    def before_train(self, runner: Runner | FlexibleRunner) -> None:
        """Say so, in one line."""
        if found := misfit(flat(runner.param_schedulers), runner.max_epochs, runner.max_iters):
            print_log(found, logger="current", level=logging.WARNING)


def misfit(schedules: Sequence[_ParamScheduler], epochs: int, iters: int) -> str | None:
    """A sentence on the schedule that does not end with the training.

    Args:
        schedules: as they are built. A warm-up may end before the training, and what has no end always fits.
        epochs: length of the training.
        iters: length of the training in steps.

    Returns:
        The sentence; ``None`` if all fit.
    """
    ended = [(s.end / (epochs if s.by_epoch else iters), n, s) for n, s in enumerate(schedules) if s.end != INF]
    if not ended:
        return None
    share, number, last = max(ended, key=lambda one: one[:2])
    if share == 1 or (share < 1 and (len(ended) < len(schedules) or _is_warm_up(last))):
        return None
    unit, length = ("epoch", epochs) if last.by_epoch else ("step", iters)
    then = "is cut off" if share > 1 else "goes on at the last rate"
    return (
        f"param_scheduler[{number}] ends at {unit} {last.end} and the training (train_cfg) at {unit} {length}, so it "
        f"{then}; a schedule without `end` ends with the training"
    )


def _is_warm_up(schedule: _ParamScheduler) -> bool:
    """Whether the rate is the full one at a schedule's end."""
    return isinstance(schedule, ConstantParamScheduler) or getattr(schedule, "end_factor", None) == 1.0


def flat(parts: Any) -> list[Any]:
    """The schedules of a runner or their states in a checkpoint: one list, also of several optimizers."""
    return list(chain.from_iterable(parts.values())) if isinstance(parts, dict) else list(parts or ())


def resume_schedules(runner: Runner | FlexibleRunner, checkpoint: dict[str, Any]) -> None:
    """Let a resumed training keep the checkpoint's learning rate, on a schedule that ends where the training now ends.

    MMEngine goes on with the checkpoint's schedule whole, so a longer training would go on at rate 0.

    Args:
        runner: whose optimizer and schedules are built.
        checkpoint: checked; its ``optimizer`` and ``param_schedulers`` are changed where the length is another.

    Raises:
        UserError: if the length is another because an epoch has more or fewer steps than before.
    """
    saved = checkpoint["optimizer"]
    groups = [*saved["param_groups"], saved.get("base_param_settings")]
    pairs = [(group, old) for group, old in zip(runner.optim_wrapper.param_groups, groups) if old]
    _tell_rates(pairs)
    built, states = flat(runner.param_schedulers), flat(checkpoint.get("param_schedulers"))
    same = all(s.__dict__.get(name) == state.get(name) for s, state in zip(built, states) for name in LENGTHS)
    steps = [state["_global_step"] for state in states]
    if same or max(steps) > runner.max_iters:
        return
    _check_epochs(runner, checkpoint["meta"]["epoch"], checkpoint["meta"]["iter"])
    before = pairs[0][1]["lr"]
    for schedule, state in zip(built, states):
        for (group, _), base in zip(pairs, state["base_values"]):
            name, own = schedule.param_name, group[f"initial_{schedule.param_name}"]
            group[name], group[f"initial_{name}"] = group[name] * (base / own if own else 1.0), base
        schedule.base_values = list(state["base_values"])
    _advance(built, steps, len(runner.train_dataloader))
    for schedule, state in zip(built, states):
        state.update(schedule.state_dict())
        for group, old in pairs:
            old[schedule.param_name] = group[schedule.param_name]
    print_log(
        f"the training is of another length than the checkpoint's: its schedule is that of {runner.max_iters} steps, "
        f"and the learning rate {pairs[0][0]['lr']:.3g} where it was {before:.3g}",
        logger="current",
    )


def _check_epochs(runner: Runner | FlexibleRunner, epoch: int, step: int) -> None:
    length = len(runner.train_dataloader)
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and not epoch * length <= step <= (epoch + 1) * length:
        raise UserError(
            f"an epoch has {length} steps now, and the checkpoint took {step} steps in {epoch} epochs: resume with the "
            "batch size and the number of processes that it began with"
        )


def _advance(schedules: Sequence[_ParamScheduler], steps: Sequence[int], length: int) -> None:
    """Take steps of schedules in the order in which a training takes them; an epoch has ``length`` steps."""
    times = sorted(
        (n * (length if schedule.by_epoch else 1), schedule.by_epoch, place)
        for place, (schedule, count) in enumerate(zip(schedules, steps))
        for n in range(1, count + 1)
    )
    for schedule in schedules:
        schedule.optimizer._global_step = 0  # else MMEngine warns of a schedule's step before the optimizer's
    for _, _, place in times:
        schedules[place].step()


def _tell_rates(pairs: Sequence[tuple[dict, dict]]) -> None:
    """Say that the config's learning rate is not used, if the checkpoint has another."""
    for group, old in pairs:
        own, kept = (one.get("initial_lr", one["lr"]) for one in (group, old))
        if own != kept:
            print_log(
                f"the learning rate {own:.3g} of the config (optim_wrapper.optimizer.lr) is not used: a resumed "
                f"training keeps the checkpoint's, {kept:.3g}",
                logger="current",
                level=logging.WARNING,
            )
            return
