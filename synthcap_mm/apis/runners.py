"""The runner that a config asks for."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.registry import RUNNERS


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """MMEngine's ``Runner``, or the one that ``cfg.runner_type`` names.

    ``FlexibleRunner`` trains with a ``strategy``; see docs/large_decoders.md.

    Args:
        cfg: the config.

    Raises:
        ValueError: if the config has a strategy and no runner that takes one.
    """
    name = cfg.get("runner_type", "Runner")
    if name == "Runner" and cfg.get("strategy") is not None:
        raise ValueError(
            f"the config has strategy={cfg.strategy.get('type')}, which MMEngine's Runner does not take; set "
            "runner_type='FlexibleRunner'"
        )
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
