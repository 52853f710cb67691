"""The runner that a config asks for."""

from __future__ import annotations

import functools

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.engine.divergence_hook import DivergenceHook
from synthcap_mm.engine.identity_hook import CaptionerIdentityHook
from synthcap_mm.errors import UserError
from synthcap_mm.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS, RUNNERS, SCOPE, VISUALIZERS

#: Fields of a config whose components the runner builds by itself, with an error that names no near names.
_BUILT_BY_THE_RUNNER = {
    "model": MODELS, "train_dataloader.dataset": DATASETS, "val_dataloader.dataset": DATASETS,
    "test_dataloader.dataset": DATASETS, "val_evaluator": METRICS, "test_evaluator": METRICS, "custom_hooks": HOOKS,
    "default_hooks": HOOKS, "optim_wrapper": OPTIM_WRAPPERS, "visualizer": VISUALIZERS,
}  # fmt: skip


def check_types(cfg: Config) -> None:
    """Refuse names of components that are not registered, with the near ones.

    Args:
        cfg: the config.

    Raises:
        UserError: naming the field.
    """
    if cfg.get("default_scope", SCOPE) != SCOPE:
        return
    for place, registry in _BUILT_BY_THE_RUNNER.items():
        parts = functools.reduce(lambda part, key: (part or {}).get(key), place.split("."), cfg) or []
        if isinstance(parts, dict):
            parts = [parts] if "type" in parts else parts.values()
        for part in parts:
            name = part.get("type") if isinstance(part, dict) and "_scope_" not in part else None
            if isinstance(name, str) and registry.get(name) is None:
                raise UserError(f"{place}: {registry.unknown(name)}")


def build_runner(cfg: Config, to_test: bool = False) -> Runner | FlexibleRunner:
    """MMEngine's ``Runner``, or the one that ``cfg.runner_type`` names, with the hooks that belong to every run.

    ``FlexibleRunner`` trains with a ``strategy``; see docs/large_decoders.md.

    Args:
        cfg: the config.
        to_test: only to test, which needs no strategy: always ``Runner``. Default ``False``.

    Raises:
        UserError: for a name that is not registered; if the config has a strategy and no runner that takes one.
    """
    name = cfg.get("runner_type", "Runner")
    if not to_test and name == "Runner" and cfg.get("strategy") is not None:
        raise UserError(
            f"the config has strategy={cfg.strategy.get('type')}, which MMEngine's Runner does not take; set "
            "runner_type='FlexibleRunner'"
        )
    check_types(cfg)
    _switch_tensorboard_on(cfg)
    runner = Runner.from_cfg(cfg) if to_test or "runner_type" not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CaptionerIdentityHook())
    runner.register_hook(DivergenceHook())
    return runner


def _switch_tensorboard_on(cfg: Config) -> None:
    """Add TensorBoard to the log files, where ``cfg.tensorboard`` says so."""
    if not cfg.get("tensorboard"):
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"tensorboard=True needs TensorBoard ({error}): pip install 'synthcap_mm[tensorboard]'"
        ) from error
    backends = cfg.visualizer.vis_backends
    if not any(b["type"] == "TensorboardVisBackend" for b in backends):
        backends.append({"type": "TensorboardVisBackend"})
