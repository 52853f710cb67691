"""Registries of the scope ``synthcap_mm``, children of MMEngine's roots.

Every registry names in ``locations`` the modules that hold its components, so
a component is found by name without anybody importing it first.
"""

from __future__ import annotations

import difflib

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

SCOPE = "synthcap_mm"


class SuggestingRegistry(Registry):
    """A registry whose error for an unknown name lists the near matches."""

    def get(self, key: str) -> type:
        """Return the class registered as ``key``.

        Raises:
            KeyError: if nothing is registered under ``key``, here or in a
                parent; the message lists similar names.
        """
        try:
            found = super().get(key)
        except RuntimeError as error:
            if "Failed to get" not in str(error):
                raise
            found = None
        if found is not None:
            return found
        known: set[str] = set()
        registry: Registry | None = self
        while registry is not None:
            registry.import_from_location()
            known.update(registry.module_dict)
            registry = registry.parent
        name = key.rsplit(".", 1)[-1]
        by_fold = {k.lower(): k for k in known}
        near = [by_fold[m] for m in difflib.get_close_matches(name.lower(), by_fold, n=4, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(sorted(self.module_dict))}."
        raise KeyError(
            f"{key!r} is not registered in {self.scope}'s '{self.name}' registry; {hint} "
            "A component of your own needs its module named in the config's custom_imports."
        )


#: Captioners, backbones, necks, heads, generators, tag providers, data preprocessors.
MODELS = SuggestingRegistry("model", parent=MMENGINE_MODELS, scope=SCOPE, locations=["synthcap_mm.models"])
#: Datasets, and the sources of captions and photos that the stores are made from.
DATASETS = SuggestingRegistry("dataset", parent=MMENGINE_DATASETS, scope=SCOPE, locations=["synthcap_mm.datasets"])
METRICS = SuggestingRegistry("metric", parent=MMENGINE_METRICS, scope=SCOPE, locations=["synthcap_mm.evaluation"])
HOOKS = SuggestingRegistry("hook", parent=MMENGINE_HOOKS, scope=SCOPE, locations=["synthcap_mm.engine"])
OPTIM_WRAPPERS = SuggestingRegistry(
    "optimizer wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope=SCOPE, locations=["synthcap_mm.engine"]
)
