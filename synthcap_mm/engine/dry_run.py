"""What a training would cost, measured on a few of its own steps; nothing is left behind."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import resource
import statistics
import time
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch.distributed.fsdp import FullyShardedDataParallel

from synthcap_mm.engine.runners import build_runner
from synthcap_mm.errors import UserError
from synthcap_mm.files import temporary_folder
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.progress import duration

#: Steps (and validation batches) before the clock starts: the memory is read, workers start, kernels are chosen.
WARM_UP = 3
#: Steps that are timed, and validation batches.
TIMED, VALIDATED = 8, 2


class _Enough(Exception):
    """Ends the training that was begun."""


@dataclasses.dataclass
class TrainingCost:
    """What :func:`dry_run` found.

    Attributes:
        ranks: processes that train together.
        trained: parameters that learn.
        frozen: parameters of the captioner that do not.
        memories: ``(neck, rows, width)`` of each memory on the device.
        batch: captions a step on each rank.
        steps: of the whole schedule.
        epochs: of the whole schedule.
        step: median seconds a step, reading the data included; the slowest rank's.
        rates: ``(step, rate)``: the first, the highest and the last learning rate.
        peak: most bytes allocated on the GPU; without one, resident memory of this process.
        validations: how often the schedule validates.
        val_batches: batches of a validation on each rank.
        val_batch: median seconds of a validation batch, without scoring; ``None``: there is no validation.
    """

    ranks: int
    trained: int
    frozen: int
    memories: list[tuple[str, int, int]]
    batch: int
    steps: int
    epochs: int
    step: float
    rates: list[tuple[int, float]]
    peak: int
    validations: int
    val_batches: int
    val_batch: float | None

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: parameters, and AdamW's two moments of those that learn."""
        return 4 * (3 * self.trained + self.frozen)

    def describe(self) -> str:
        """The figures as lines of text."""
        first, highest, last = self.rates
        lines = [
            f"device        {_device()}, {self.ranks} ranks",
            f"parameters    {self.trained:,} trained, {self.frozen:,} frozen",
            *(f"memory        {name}: {rows:,} rows of {width}" for name, rows, width in self.memories),
            f"batch         {self.batch} captions a rank, {self.batch * self.ranks} a step",
            f"step          {self.step:.3f} s (median, reading included)",
            f"schedule      {self.epochs} epochs, {self.steps:,} steps: {duration(self.steps * self.step)}",
            f"rate          {first[1]:.1e} → {highest[1]:.1e} at step {highest[0]:,} → {last[1]:.1e}",
            f"peak memory   {self.peak / 1e6:,.0f} MB",
            f"disk          {self.checkpoint / 1e6:,.0f} MB a checkpoint",
        ]
        if self.val_batch is not None:
            seconds = self.validations * self.val_batches * self.val_batch
            lines.append(f"validation    {self.val_batch:.2f} s a batch: {duration(seconds)} in all {self.validations}")
        return "\n".join(f"  {line}" for line in lines)


class _Measure(Hook):
    """Times the first steps of a training and a few validation batches, then ends it."""

    priority = "LOWEST"  # after all that a step does

    def before_train(self, runner: Any) -> None:
        self.val_marks: list[float] = []
        self.batch = 0
        self.rates = [_rate(runner)]  # of each step
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.marks = [_now()]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.marks.append(_now())
        self.rates.append(_rate(runner))
        self.batch = max(self.batch, len(data_batch))
        # Stop within the first epoch: its end would validate on everything and save a checkpoint.
        if len(self.marks) > min(WARM_UP + TIMED, len(runner.train_dataloader)):
            if runner.val_loop is not None:
                self._validate(runner)
            raise _Enough

    def _validate(self, runner: Any) -> None:
        runner.model.eval()
        self.val_marks.append(_now())
        with torch.no_grad():
            for _, batch in zip(range(1 + VALIDATED), runner.val_dataloader):
                runner.model.val_step(batch)
                self.val_marks.append(_now())


def dry_run(cfg: Config) -> TrainingCost:
    """Begin the training of a config, take a few of its steps, and say what all would cost.

    Runner, loaders, optimizer and hooks are the config's. What they write goes into a temporary
    folder; no checkpoint is written, and the config's work folder is not touched.

    Args:
        cfg: the config. What it needs must be there; see :func:`~synthcap_mm.pipeline.train`.

    Raises:
        UserError: if a step or a validation batch runs out of the device's memory.
    """
    measure = _Measure()
    with temporary_folder() as folder:
        runner = build_runner(_quiet(cfg, str(folder)))
        runner.register_hook(measure)
        try:
            runner.train()
        except _Enough:
            pass
        except torch.OutOfMemoryError as error:
            part = "val" if measure.val_marks else "train"
            raise UserError(
                f"a batch does not fit into the memory of {_device()}: {error}. Lower {part}_dataloader.batch_size"
            ) from error
        return _cost(runner, measure)


def _quiet(cfg: Config, folder: str) -> Config:
    """The config of a run that writes into ``folder`` only, says little, and does not test."""
    own = copy.deepcopy(cfg)
    own.work_dir, own.log_level, own.resume = folder, "WARNING", False
    own.visualizer = {"type": "Visualizer", "vis_backends": []}
    own.setdefault("default_hooks", {})
    own.default_hooks.update(checkpoint=None, logger=None)
    own.test_dataloader = own.test_cfg = own.test_evaluator = None
    return own


def _cost(runner: Any, measure: _Measure) -> TrainingCost:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parameters = list(runner.model.parameters())
    counts = torch.tensor(
        [sum(p.numel() for p in parameters if p.requires_grad is learns) for learns in (True, False)],
        device=parameters[0].device,
    )
    if isinstance(runner.model, FullyShardedDataParallel):
        all_reduce(counts)  # each rank has its part
    trained, frozen = counts.tolist()
    memories = [(type(neck).__name__, getattr(neck, "memory", None)) for neck in model.necks]
    validates = bool(measure.val_marks)
    return TrainingCost(
        ranks=get_world_size(),
        trained=trained,
        frozen=frozen,
        memories=[(name, *memory.features.shape) for name, memory in memories if isinstance(memory, CaptionMemory)],
        batch=measure.batch,
        steps=runner.max_iters,
        epochs=runner.max_epochs,
        step=_slowest(measure.marks, WARM_UP),
        rates=_rates(runner, measure.rates),
        peak=peak_bytes(),
        validations=_validations(runner.train_loop) if validates else 0,
        val_batches=len(runner.val_dataloader) if validates else 0,
        val_batch=_slowest(measure.val_marks, 1) if validates else None,
    )


def _validations(loop: BaseLoop) -> int:
    """How often a training loop of MMEngine's validates."""
    last = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
    return sum(n >= loop.val_begin and (n % loop.val_interval == 0 or n == last) for n in range(1, last + 1))


def _rates(runner: Any, measured: list[float]) -> list[tuple[int, float]]:
    """The first, the highest and the last learning rate of the schedule, of which some steps were taken."""
    schedulers, length = runner.param_schedulers or [], len(runner.train_dataloader)
    rates = measured[:-1]
    for step in range(len(rates), runner.max_iters):  # the steps that were not taken; the schedulers stand before them
        if step % length == 0:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
        rates.append(_rate(runner))
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
    highest = max(range(len(rates)), key=rates.__getitem__)
    return [(step, rates[step]) for step in (0, highest, len(rates) - 1)]


def _rate(runner: Any) -> float:
    return runner.optim_wrapper.optimizer.param_groups[0]["lr"]


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _slowest(marks: list[float], warm_up: int) -> float:
    """The median span between marks, of the slowest rank; the first spans are left out unless there are no others."""
    spans = [b - a for a, b in itertools.pairwise(marks)]
    value = torch.tensor(
        statistics.median(spans[warm_up:] or spans[-1:]), device="cuda" if torch.cuda.is_available() else "cpu"
    )
    all_reduce(value, op="max")
    return float(value)


def peak_bytes() -> int:
    """Most memory that was allocated on the GPU, or without one that was resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
