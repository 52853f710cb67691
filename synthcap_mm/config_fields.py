"""Types and ranges of a config's fields; our components have theirs as annotations (:mod:`synthcap_mm.options`).

MMEngine's annotations have no ranges: those are here where a wrong number would hang or crash.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from synthcap_mm.errors import UserError
from synthcap_mm.options import (
    Chance,
    Component,
    Count,
    CountOrZero,
    Data,
    GivenTo,
    Model,
    Name,
    NotNegative,
    Positive,
    Range,
    Share,
    That,
    fault,
)  # fmt: skip
from synthcap_mm.registry import SCOPE
from synthcap_mm.synthesis.curation import Curation, Step
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import Synthesis


def _is_package(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(name) is not None


def _with(*names: str) -> That:
    """Marks a dict that has one of the keys."""
    return That(f"with {' or '.join(names)}", lambda value: any(name in value for name in names))


class Dataloader(TypedDict, total=False):
    """See :class:`torch.utils.data.DataLoader`."""

    dataset: Data
    batch_size: Count
    num_workers: Annotated[int, Range("[0, 1024]")]
    sampler: Annotated[dict, Component("DATA_SAMPLERS")]
    persistent_workers: bool
    pin_memory: bool
    drop_last: bool
    prefetch_factor: Count | None
    timeout: NotNegative
    num_batch_per_epoch: Count | None
    batch_sampler: Annotated[dict, Component("DATA_SAMPLERS")] | None
    collate_fn: Any
    worker_init_fn: dict | None
    multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None
    pin_memory_device: str
    in_order: bool


class Loop(TypedDict, total=False):
    """See :class:`mmengine.runner.EpochBasedTrainLoop`."""

    type: str
    by_epoch: bool
    max_epochs: Count
    max_iters: Count
    val_begin: CountOrZero
    val_interval: Count
    fp16: bool


class Optimizer(TypedDict, total=False):
    """See :mod:`torch.optim`."""

    lr: NotNegative
    weight_decay: NotNegative
    eps: NotNegative
    betas: tuple[Annotated[float, Range("[0, 1)")], Annotated[float, Range("[0, 1)")]]
    momentum: NotNegative


class Clipping(TypedDict, total=False):
    """See :func:`torch.nn.utils.clip_grad_norm_` and ``clip_grad_value_``."""

    type: Literal["norm", "value"]
    max_norm: Positive
    norm_type: Positive
    error_if_nonfinite: bool
    foreach: bool | None
    clip_value: Positive


class OptimWrapper(TypedDict, total=False):
    """See :class:`mmengine.optim.OptimWrapper`."""

    optimizer: Annotated[Optimizer, Component("OPTIMIZERS")]
    clip_grad: Annotated[Clipping, _with("max_norm", "clip_value")] | None
    constructor: Name
    paramwise_cfg: dict | None
    accumulative_counts: Count


class Scheduler(TypedDict, total=False):
    """See :mod:`mmengine.optim.scheduler`."""

    begin: CountOrZero
    end: Count
    start_factor: Share
    end_factor: Chance
    by_epoch: bool
    convert_to_iter_based: bool


class IntervalHook(TypedDict, total=False):
    """Logger and checkpoint hooks of MMEngine."""

    priority: int | str
    interval: Annotated[int, Range("[-1, 1e9]")]
    max_keep_ckpts: Annotated[int, Range("[-1, 1e9]")]
    rule: Literal["greater", "less"] | Sequence[Literal["greater", "less"]] | None
    backend_args: dict | None


class LogProcessor(TypedDict, total=False):
    """See :class:`mmengine.runner.LogProcessor`."""

    window_size: Count
    by_epoch: bool


class Processes(TypedDict, total=False):
    """Of ``env_cfg``."""

    mp_start_method: Literal["fork", "spawn", "forkserver"]
    opencv_num_threads: CountOrZero


class Distribution(TypedDict, total=False):
    """Of ``env_cfg``."""

    backend: Name
    init_backend: Name
    port: Count
    timeout: Count


class Environment(TypedDict, total=False):
    """See :meth:`mmengine.runner.Runner.setup_env`."""

    cudnn_benchmark: bool
    mp_cfg: Annotated[Processes, GivenTo(set_multi_processing, "distributed")]
    dist_cfg: Distribution
    resource_limit: Count


class Randomness(TypedDict, total=False):
    """Of the ranges that numpy takes."""

    seed: Annotated[int, Range("[0, 4294967295]")] | None


class Scaling(TypedDict, total=False):
    """Of learning rates with the batch."""

    enable: bool
    base_batch_size: Count


class Gallery(TypedDict, total=False):
    """Of a test."""

    num: CountOrZero


class TestSet(TypedDict, total=False):
    """See :func:`synthcap_mm.engine.test_sets.check_test_sets`."""

    name: Name
    store: Name
    memory: Name | Data


class Input(TypedDict, total=False):
    """See :func:`synthcap_mm.missing_inputs.missing_inputs`."""

    path: Name
    hub: Name
    module: Name
    needed_by: str
    how: str


class Visualizer(TypedDict, total=False):
    """See :class:`mmengine.visualization.Visualizer`."""

    vis_backends: Sequence[Annotated[dict, Component("VISBACKENDS")]] | None


_Loader = Annotated[
    Dataloader,
    That("a dict with a dataset and without a type", lambda loader: "dataset" in loader and "type" not in loader),
]
_TrainLoop = Annotated[Loop, Component("LOOPS", "EpochBasedTrainLoop"), _with("max_epochs", "max_iters", "type")]
_OptimWrapper = Annotated[
    OptimWrapper, Component("OPTIM_WRAPPERS", "OptimWrapper"), _with("optimizer", "constructor", "type")
]
_Hook = Annotated[IntervalHook, Component("HOOKS")]
_Metric = Annotated[dict, Component("METRICS")]
_Scheduler = Annotated[
    Scheduler,
    Component("PARAM_SCHEDULERS"),
    That(
        "with convert_to_iter_based only by_epoch",
        lambda scheduler: scheduler.get("by_epoch", True) or not scheduler.get("convert_to_iter_based"),
    ),
]


class Fields(TypedDict, total=False):
    """The top-level fields that something reads; a config may have variables besides."""

    # A test needs the encoder of it alone.
    synthesis: Annotated[dict, GivenTo(Synthesis, "store", "captions", "encoder")]
    photo_stores: Sequence[Annotated[dict, GivenTo(PhotoStore, "encoder")]]
    curation: Annotated[dict, GivenTo(Curation, "store")] | Sequence[Step] | None
    inputs: Sequence[Input]
    model: Model
    train_dataloader: _Loader | None
    val_dataloader: _Loader | None
    test_dataloader: _Loader | None
    train_cfg: _TrainLoop | None
    val_cfg: Annotated[Loop, Component("LOOPS", "ValLoop")] | None
    test_cfg: Annotated[Loop, Component("LOOPS", "TestLoop")] | None
    val_evaluator: _Metric | Sequence[_Metric] | None
    test_evaluator: _Metric | Sequence[_Metric] | None
    test_sets: Sequence[TestSet] | None
    optim_wrapper: _OptimWrapper | None
    param_scheduler: _Scheduler | Sequence[_Scheduler] | None
    auto_scale_lr: Scaling | None
    default_hooks: Mapping[str, _Hook | None]
    custom_hooks: Sequence[_Hook] | None
    log_processor: Annotated[LogProcessor, Component("LOG_PROCESSORS", "LogProcessor")] | None
    visualizer: Annotated[Visualizer, Component("VISUALIZERS")] | None
    env_cfg: Environment
    randomness: Annotated[Randomness, GivenTo(Runner.set_randomness)]
    gallery: Gallery
    work_dir: Name
    load_from: Name | None
    resume: bool
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    default_scope: Annotated[str, That("the name of a package", _is_package)]
    auto_synthesize: bool
    test_best: bool
    tensorboard: bool


#: MMEngine takes all of these, or none.
_TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)


def check_fields(cfg: Config) -> None:
    """Refuse a config with a value that nothing could work with, before anything begins.

    Args:
        cfg: the config.

    Raises:
        UserError: naming the field.
    """
    fields = cfg._cfg_dict
    if fields.get("default_scope", SCOPE) != SCOPE:  # whose fields are not known
        fields = {"default_scope": fields["default_scope"]}
    if found := fault(Fields, fields, ""):
        raise UserError(found)


def check_together(cfg: Config) -> None:
    """Refuse a dataloader without its loop, or the other way round.

    Raises:
        UserError: naming the fields that belong together.
    """
    for names in _TOGETHER:
        given = [name for name in names if cfg.get(name) is not None]
        if given and len(given) < len(names):
            raise UserError(f"{', '.join(names)} belong together, and only {' and '.join(given)} is there")
