"""The runner that a config asks for."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.config_fields import check_fields, check_together
from synthcap_mm.engine.divergence_hook import DivergenceHook
from synthcap_mm.engine.identity_hook import CaptionerIdentityHook
from synthcap_mm.engine.loading import explain_loading
from synthcap_mm.engine.resuming import ResumeHook
from synthcap_mm.engine.schedules import ScheduleHook
from synthcap_mm.errors import UserError
from synthcap_mm.registry import RUNNERS


def build_runner(cfg: Config, to_test: bool = False) -> Runner | FlexibleRunner:
    """MMEngine's ``Runner``, or the one that ``cfg.runner_type`` names, with the hooks that belong to every run.

    ``FlexibleRunner`` trains with a ``strategy``; see docs/large_decoders.md.

    Args:
        cfg: the config.
        to_test: only to test, which needs no strategy: always ``Runner``. Default ``False``.

    Raises:
        UserError: for a value that nothing could work with; if the config has a strategy and no runner that takes one.
    """
    name = cfg.get("runner_type", "Runner")
    if not to_test and name == "Runner" and cfg.get("strategy") is not None:
        raise UserError(
            f"the config has strategy={cfg.strategy.get('type')}, which MMEngine's Runner does not take; set "
            "runner_type='FlexibleRunner'"
        )
    check_fields(cfg)
    _leave_out_idle_loops(cfg)
    check_together(cfg)
    _switch_tensorboard_on(cfg)
    runner = Runner.from_cfg(cfg) if to_test or "runner_type" not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CaptionerIdentityHook())
    runner.register_hook(DivergenceHook())
    runner.register_hook(ResumeHook())
    runner.register_hook(ScheduleHook())
    explain_loading(runner)
    return runner


def _leave_out_idle_loops(cfg: Config) -> None:
    """Leave out the loop of a stage without data and metrics: a base may have it, and MMEngine takes all or none."""
    for stage in ("val", "test"):
        if cfg.get(f"{stage}_dataloader") is None and cfg.get(f"{stage}_evaluator") is None:
            cfg[f"{stage}_cfg"] = None


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
