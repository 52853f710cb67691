"""Recipes: how a table is made, as a small JSON value.

A recipe holds what decides a table's content and nothing else: the type of the component that makes it, its
arguments that differ from their defaults, and the recipes of the tables that it reads. Files and folders stand in
it by their content, so that a store can be moved. It is computed from a config, without building a model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthcap_mm.files import file_sha256, folder_sha256
from synthcap_mm.registry import DATASETS, MODELS

#: Arguments that are names, whatever lies in the current folder.
_NAMES = ("type", "kind")


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal hash of a JSON value: the same for the same value, on any machine.

    Args:
        value: the value.
        length: number of digits. Default 12.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # Names of files need not be text, and a damaged recipe may hold half a character.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]


def component_recipe(config: Mapping[str, Any] | None, *leave_out: str) -> dict[str, Any] | None:
    """The recipe of a component from its config.

    A component class may say in ``not_in_recipe`` which arguments do not decide what it makes (batch sizes,
    devices), raise ``recipe_version`` when it makes something else of the same arguments, and pin what an argument
    stands for (a hub's revision) in the class method ``pin(arguments)``.

    Args:
        config: ``dict(type=…, …)``, or ``None``.
        *leave_out: further arguments that do not decide.

    Returns:
        ``{'type': name, argument: value, …}``; ``None`` for ``None``.

    Raises:
        KeyError: if no class is registered under that name.
    """
    if config is None:
        return None
    arguments = dict(config)
    kind = arguments.pop("type")
    cls = _find(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise KeyError(f"{kind!r} is not registered, neither as a model nor as a data source")
    if hasattr(cls, "pin"):
        arguments = cls.pin(arguments)
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    ignored = {*getattr(cls, "not_in_recipe", ()), *leave_out}
    recipe = {"type": cls.__name__, "version": getattr(cls, "recipe_version", 1)}
    for name, value in sorted(arguments.items()):
        if name not in ignored and not (name in defaults and _same(defaults[name], value)):
            recipe[name] = settings_recipe(value, name)
    return recipe


def settings_recipe(value: Any, name: str = "") -> Any:
    """Settings as a recipe holds them: nested components as recipes, files and folders by name and content.

    Args:
        value: the settings.
        name: of the argument; a type or a kind is never taken for a file. Default: none.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str) and _find(value["type"]) is not None:
            return component_recipe(value)
        # JSON's keys are strings: a recipe must have the same digest when it is read again.
        return {str(key): settings_recipe(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [settings_recipe(item) for item in value]
    if isinstance(value, (str, Path)) and value and name not in _NAMES and os.path.exists(value):
        path = Path(value)
        if path.is_file():
            return {"file": path.name, "sha256": file_sha256(path)}
        return {"folder": path.name, "sha256": folder_sha256(path)}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _find(kind: str) -> type | None:
    for registry in (MODELS, DATASETS):
        try:
            found = registry.get(kind)
        except KeyError:
            found = None
        if found is not None:
            return found
    return None


def _same(default: Any, value: Any) -> bool:
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return list(default) == list(value)
    return type(default) is type(value) and default == value


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """In what two recipes differ, one line each, ``'image_features.encoder.model_name: … → …'``.

    A file that is not there any more cannot be compared: its name decides. Nor can a hub's revision that is not known
    here, where there is neither the model nor a network.

    Args:
        old: a recipe.
        new: another one.
        where: prefix of the names. Default: none.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    if new is None and where.endswith(".revision"):
        return []
    if isinstance(old, Mapping) and isinstance(new, str) and Path(new).name in (old.get("file"), old.get("folder")):
        return []
    return [] if old == new else [f"{where}: {old!r} → {new!r}"]
