"""What a training would cost, measured on a few of its own steps; nothing is left behind."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch.distributed.fsdp import FullyShardedDataParallel

from synthcap_mm.apis.runners import build_runner
from synthcap_mm.models.necks.memory_neck import MemoryNeck
from synthcap_mm.models.preprocessor import IGNORE
from synthcap_mm.progress import megabytes
from synthcap_mm.registry import PARAM_SCHEDULERS
from synthcap_mm.synthesis.encoding import default_device

#: Steps before the clock starts (the memory is read, workers start, kernels are chosen), and steps that are timed.
WARM_UP, TIMED = 3, 8
#: Validation batches: one that warms up, and those that are timed.
VALIDATED = 3


def finished(device: torch.device) -> float:
    """The time when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class DoesNotFitError(RuntimeError):
    """A step needs more memory than the device has."""


class _Enough(Exception):
    """Ends the training that was begun."""


@dataclasses.dataclass
class TrainingCost:
    """What :func:`dry_run` found.

    Attributes:
        device: its name.
        ranks: processes that train together.
        trained: parameters that learn.
        frozen: parameters of the captioner that do not.
        memories: ``(neck, rows, width, bytes)`` of each memory on the device.
        batch: captions a step on each rank.
        tokens: mean tokens a step on each rank, prompts and captions.
        learnt: of these, tokens that the loss counts.
        padding: share of the batch's places that are padding, in [0, 1].
        losses: of the first and of the last step.
        step: median seconds a step, reading the data included.
        steps: of the whole schedule.
        epochs: of the whole schedule.
        rates: ``(step, rate)``: the first, the highest and the last learning rate.
        peak: bytes; see ``peak_of``.
        peak_of: what ``peak`` is of, in words.
        validations: how often the schedule validates.
        val_images: images of a validation.
        val_batch: median seconds of a validation batch, or ``None``: there is no validation.
        val_batches: batches of a validation on each rank.
    """

    device: str
    ranks: int
    trained: int
    frozen: int
    memories: list[tuple[str, int, int, int]]
    batch: int
    tokens: float
    learnt: float
    padding: float
    losses: tuple[float, float]
    step: float
    steps: int
    epochs: int
    rates: list[tuple[int, float]]
    peak: int
    peak_of: str
    validations: int
    val_images: int
    val_batch: float | None
    val_batches: int

    @property
    def hours(self) -> float:
        """Of all steps, without validation."""
        return self.steps * self.step / 3600

    @property
    def val_hours(self) -> float:
        """Of writing the captions of all validations, without scoring them."""
        return self.validations * self.val_batches * (self.val_batch or 0.0) / 3600

    def describe(self) -> str:
        """The figures as lines of text."""
        of_ranks = f", {self.ranks} ranks" if self.ranks > 1 else ""
        first, highest, last = self.rates
        lines = [
            f"device        {self.device}{of_ranks}",
            f"parameters    {self.trained:,} trained, {self.frozen:,} frozen; encoders are not built, features are "
            "the store's",
        ]
        lines += [
            f"memory        {name}: {rows:,} rows of {width}, {megabytes(size)} on each device"
            for name, rows, width, size in self.memories
        ] or ["memory        none"]
        lines += [
            f"batch         {self.batch} captions a rank, {self.batch * self.ranks} a step; {self.tokens:,.0f} tokens a"
            f" rank, {self.learnt:,.0f} of them learnt, padding {100 * self.padding:.0f} %",
            f"loss          {self.losses[0]:.3f} → {self.losses[1]:.3f} in {WARM_UP + TIMED} steps at most",
            f"step          {self.step:.3f} s (median, after a warm-up; reading included)",
            f"schedule      {self.epochs} epochs, {self.steps:,} steps: {self.hours:.2f} h on this device (computed)",
            f"rate          {first[1]:.1e} → {highest[1]:.1e} at step {highest[0]:,} → {last[1]:.1e}",
            f"peak memory   {megabytes(self.peak)} ({self.peak_of})",
        ]
        if self.val_batch is None:
            lines.append("validation    none")
        else:
            lines.append(
                f"validation    {self.val_images:,} images, {self.val_batch:.2f} s a batch: "
                f"{self.val_batches * self.val_batch / 60:.1f} min each, {self.val_hours:.2f} h in all "
                f"{self.validations} (computed; without scoring)"
            )
        return "\n".join(f"  {line}" for line in lines)


def learning_rates(schedulers: Any, rate: float, epoch_length: int, epochs: int) -> list[float]:
    """The learning rate of each step of a schedule.

    Args:
        schedulers: ``cfg.param_scheduler``: a config, a list of them, or ``None``.
        rate: the optimizer's.
        epoch_length: steps an epoch.
        epochs: epochs.

    Returns:
        ``epoch_length * epochs`` rates.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    built = []
    for settings in [schedulers] if isinstance(schedulers, dict) else schedulers or []:
        settings = dict(settings)
        by_epoch = settings.get("by_epoch", True)
        settings.setdefault("end", epochs if by_epoch else epochs * epoch_length)
        built.append(
            PARAM_SCHEDULERS.build(settings, default_args={"optimizer": optimizer, "epoch_length": epoch_length})
        )
    rates = []
    for step in range(epoch_length * epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    return rates


class _Measure(Hook):
    """Times the first steps of a training and a few validation batches, then ends it."""

    priority = "LOWEST"  # after all that a step does

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.losses: list[float] = []
        self.batches: list[Sequence[Any]] = []
        self.val_marks: list[float] = []

    def before_train(self, runner: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.marks.append(finished(default_device()))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        self.marks.append(finished(default_device()))
        self.losses.append(float(torch.as_tensor(outputs["loss"]).detach()))
        self.batches.append(data_batch)
        # Within the first epoch, since its end would validate all and save.
        if len(self.losses) >= min(WARM_UP + TIMED, len(runner.train_dataloader)):
            self._validate(runner)
            raise _Enough

    def _validate(self, runner: Any) -> None:
        if runner.val_loop is None:
            return
        runner.model.eval()
        self.val_marks.append(finished(default_device()))
        with torch.no_grad():
            for _, batch in zip(range(VALIDATED), runner.val_dataloader):
                runner.model.val_step(batch)
                self.val_marks.append(finished(default_device()))


def _median(marks: Sequence[float], warm_up: int) -> float:
    """Of the spans between marks, leaving out the first ones unless there are no others."""
    spans = [b - a for a, b in itertools.pairwise(marks)]
    return statistics.median(spans[warm_up:] or spans[-1:])


def _parameters(model: torch.nn.Module) -> tuple[int, int]:
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad is learns) for learns in (True, False)]
    if not isinstance(model, FullyShardedDataParallel):
        return counts[0], counts[1]
    shards = torch.tensor(counts, device=next(model.parameters()).device)  # each rank has its part
    all_reduce(shards)
    return int(shards[0]), int(shards[1])


def _tokens(model: torch.nn.Module, batches: Sequence[Any]) -> tuple[float, float, float]:
    """Mean tokens a batch, those that are learnt, and the share of padding."""
    tokens = learnt = places = 0
    for batch in batches:
        made = model.data_preprocessor(batch, training=True)
        tokens += int(made["lengths"].sum())
        learnt += int((made["labels"] != IGNORE).sum())
        places += made["input_ids"].numel()
    return tokens / len(batches), learnt / len(batches), 1 - tokens / places


def _quiet(cfg: Config, folder: str) -> Config:
    """The config of a run that writes into ``folder`` only, and says little."""
    own = copy.deepcopy(cfg)
    own.work_dir = folder
    own.log_level = "WARNING"
    own.visualizer = {"type": "Visualizer", "vis_backends": []}
    own.setdefault("default_hooks", {})
    own.default_hooks.update(checkpoint=None, logger=None)
    own.resume = False
    for part in ("test_dataloader", "test_cfg", "test_evaluator"):
        own[part] = None
    return own


def dry_run(cfg: Config) -> TrainingCost:
    """Begin the training of a config, take a few of its steps, and say what all would cost.

    Runner, loaders, optimizer and hooks are the config's. What they write goes into a temporary
    folder; no checkpoint is written, and the config's work folder is not touched.

    Args:
        cfg: the config. What it needs must be there; see :func:`~synthcap_mm.pipeline.train`.

    Returns:
        The cost, of this rank; the step's time is the slowest rank's.

    Raises:
        DoesNotFitError: if a step or a validation batch runs out of the device's memory.
    """
    measure = _Measure()
    with tempfile.TemporaryDirectory(prefix="synthcap_dry_run_") as folder:
        runner = build_runner(_quiet(cfg, folder))
        runner.register_hook(measure)
        try:
            runner.train()
        except _Enough:
            pass
        except torch.OutOfMemoryError as error:
            where = "a validation batch" if measure.val_marks else "a step"
            raise DoesNotFitError(
                f"{where} does not fit into the memory of {_device()} after {len(measure.losses)} steps: {error}. "
                "Lower train_dataloader.batch_size (val_dataloader.batch_size)"
            ) from error
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        loader, loop = runner.train_dataloader, runner.train_loop
        tokens, learnt, padding = _tokens(model, measure.batches)
        rates = learning_rates(
            cfg.get("param_scheduler"), _rate(runner), len(loader), -(-runner.max_iters // len(loader))
        )
        highest = max(range(len(rates)), key=rates.__getitem__)
        memories = []
        for neck in model.necks:
            if isinstance(neck, MemoryNeck) and neck.memory is not None:
                feats = neck.memory.features
                memories.append((type(neck).__name__, *feats.shape, feats.numel() * feats.element_size()))
        trained, frozen = _parameters(runner.model)
        on_gpu = torch.cuda.is_available()
        validates = runner.val_loop is not None
        return TrainingCost(
            device=_device(),
            ranks=get_world_size(),
            trained=trained,
            frozen=frozen,
            memories=memories,
            batch=len(measure.batches[0]),
            tokens=tokens,
            learnt=learnt,
            padding=padding,
            losses=(measure.losses[0], measure.losses[-1]),
            step=_slowest(_median(measure.marks, WARM_UP)),
            steps=runner.max_iters,
            epochs=runner.max_epochs,
            rates=[(0, rates[0]), (highest, rates[highest]), (len(rates) - 1, rates[-1])],
            peak=peak_bytes(),
            peak_of="allocated on the GPU" if on_gpu else "most resident memory of this process",
            validations=_validations(loop) if validates else 0,
            val_images=len(runner.val_dataloader.dataset) if validates else 0,
            val_batch=_slowest(_median(measure.val_marks, 1)) if validates else None,
            val_batches=len(runner.val_dataloader) if validates else 0,
        )


def _validations(loop: BaseLoop) -> int:
    """How often a training loop of MMEngine's validates."""
    begin, interval = getattr(loop, "val_begin", 1), getattr(loop, "val_interval", 1)
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    last = loop.max_epochs if by_epoch else loop.max_iters
    return sum(at >= begin and (at % interval == 0 or at == last) for at in range(1, last + 1))


def peak_bytes() -> int:
    """Most memory that was allocated on the GPU, or without one that was resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rate(runner: Any) -> float:
    group = runner.optim_wrapper.optimizer.param_groups[0]
    return group.get("initial_lr", group["lr"])


def _slowest(seconds: float) -> float:
    value = torch.tensor(seconds, device="cuda" if torch.cuda.is_available() else "cpu")
    all_reduce(value, op="max")
    return float(value)


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


__all__ = ["DoesNotFitError", "TrainingCost", "dry_run", "learning_rates"]
