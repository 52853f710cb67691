"""Registries of the scope ``synthcap_mm``, children of MMEngine's roots.

Every registry names in ``locations`` the modules that hold its components, so
a component is found by name without anybody importing it first.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import mmengine.config.config
import mmengine.registry as mmengine_registry
from mmengine.registry import Registry

from synthcap_mm.errors import UserError, near
from synthcap_mm.options import check_when_built

# MMEngine writes the keys of a dict in the order of the alphabet (its only `sorted` there); that of necks matters.
mmengine.config.config.sorted = lambda items, key=None: list(items)

SCOPE = "synthcap_mm"


class SuggestingRegistry(Registry):
    """A registry whose components check their options, and whose error for an unknown name lists the near ones."""

    def _register_module(self, module: type, *args: Any, **kwargs: Any) -> None:
        super()._register_module(module, *args, **kwargs)
        if inspect.isclass(module):
            check_when_built(module)

    def build(self, cfg: dict, *args: Any, **kwargs: Any) -> Any:
        """Build a component.

        Raises:
            UserError: if nothing is registered under its ``type``, here or in a parent, with similar names; or for an
                option that it does not take, see :mod:`synthcap_mm.options`.
        """
        name = cfg.get("type") if isinstance(cfg, dict) else None
        if isinstance(name, str) and "_scope_" not in cfg and self.get(name) is None:
            raise UserError(self.unknown(name))
        return super().build(cfg, *args, **kwargs)

    def get(self, key: str) -> type | None:
        """The class registered as ``key``, here or in a parent; ``None`` if there is none."""
        try:
            return super().get(key)
        except RuntimeError as error:  # MMEngine's, where a dotted name is no module
            if "Failed to get" not in str(error):
                raise
            return None

    def unknown(self, name: str) -> str:
        """What to say of a name that is not registered."""
        known: set[str] = set()
        registry: Registry | None = self
        while registry is not None:
            registry.import_from_location()
            known.update(registry.module_dict)
            registry = registry.parent
        meant = " or ".join(near(name.rsplit(".", 1)[-1], known))
        hint = f"did you mean {meant}?" if meant else f"known here: {', '.join(sorted(self.module_dict))}."
        return (
            f"{name!r} is not registered in {self.scope}'s '{self.name}' registry; {hint} "
            "A component of your own needs its module named in the config's custom_imports."
        )


def filled_in(config: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """A component's config, with what its user knows of the options that it leaves out.

    Args:
        config: of a component of :data:`MODELS`.
        **known: values of options; ``None`` is not known. One counts where the component takes the option, without a
            default or with ``None``, and the config does not name it.
    """
    kind = config.get("type")
    component = MODELS.get(kind) if isinstance(kind, str) else kind
    taken = {} if component is None else inspect.signature(component).parameters
    options = {
        name: value
        for name, value in known.items()
        if value is not None
        and name not in config
        and name in taken
        and taken[name].default in (None, inspect.Parameter.empty)
    }
    return {**config, **options}


def _child(name: str, *locations: str) -> SuggestingRegistry:
    root = getattr(mmengine_registry, name)
    return SuggestingRegistry(root.name, parent=root, scope=SCOPE, locations=list(locations))


#: Captioners, backbones, necks, heads, generators, tag providers, data preprocessors.
MODELS = _child(
    "MODELS",
    "synthcap_mm.models",
    # The mini-world builds on the package; nothing but these locations names it.
    *(f"synthcap_mm.miniscenes.{module}" for module in ("detector", "encoder", "painting")),
)
#: Datasets, and the sources of captions and photos that the stores are made from.
DATASETS = _child("DATASETS", "synthcap_mm.datasets", "synthcap_mm.miniscenes.sources")
METRICS = _child("METRICS", "synthcap_mm.evaluation")
#: The metrics that :class:`CaptionMetric` computes, by the names that its ``metrics`` takes.
CAPTION_SCORERS = SuggestingRegistry(
    "caption scorer", scope=SCOPE, locations=["synthcap_mm.evaluation", "synthcap_mm.miniscenes.object_errors"]
)
HOOKS = _child("HOOKS", "synthcap_mm.engine")
OPTIM_WRAPPERS = _child("OPTIM_WRAPPERS", "synthcap_mm.engine")
VISUALIZERS = _child("VISUALIZERS", "synthcap_mm.evaluation.caption_visualizer")
INFERENCERS = _child("INFERENCERS", "synthcap_mm.inference.inferencer")
RUNNERS = _child("RUNNERS", "synthcap_mm.engine")
STRATEGIES = _child("STRATEGIES", "synthcap_mm.engine")
# We have no components of these kinds. Without a registry of the scope for each, MMEngine warns at every build, and a
# plugin of a user's would have no place to register one.
RUNNER_CONSTRUCTORS = _child("RUNNER_CONSTRUCTORS")
LOOPS = _child("LOOPS")
DATA_SAMPLERS = _child("DATA_SAMPLERS")
TRANSFORMS = _child("TRANSFORMS")
FUNCTIONS = _child("FUNCTIONS")
MODEL_WRAPPERS = _child("MODEL_WRAPPERS")
WEIGHT_INITIALIZERS = _child("WEIGHT_INITIALIZERS")
OPTIMIZERS = _child("OPTIMIZERS")
OPTIM_WRAPPER_CONSTRUCTORS = _child("OPTIM_WRAPPER_CONSTRUCTORS")
PARAM_SCHEDULERS = _child("PARAM_SCHEDULERS")
EVALUATOR = _child("EVALUATOR")
TASK_UTILS = _child("TASK_UTILS")
VISBACKENDS = _child("VISBACKENDS")
LOG_PROCESSORS = _child("LOG_PROCESSORS")
