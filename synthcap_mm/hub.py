"""The Hugging Face hub, as recipes see it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any


def hub_commit(model: str, revision: str | None, file: str) -> str | None:
    """The commit of a hub's model: of the copy that is here, else as the hub says; ``revision`` if neither is there.

    Args:
        model: the repository.
        revision: branch, tag or commit; ``None`` is the main branch.
        file: a file of the repository that each copy has.
    """
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(model, file, revision=revision)
    if isinstance(found, str):
        return Path(found).parent.name
    try:
        return huggingface_hub.HfApi().model_info(model, revision=revision, timeout=5).sha
    except Exception:  # no network, or no such model: loading will say so
        return revision


def pinned(component: type, arguments: dict[str, Any], file: str) -> dict[str, Any]:
    """Arguments with the commit that a hub's ``revision`` stands for today, for recipes; a folder's stay.

    Args:
        component: class whose ``model`` is a repository of the hub or a folder.
        arguments: of its constructor.
        file: see :func:`hub_commit`.
    """
    model = arguments.get("model", inspect.signature(component).parameters["model"].default)
    if Path(model).is_dir():
        return arguments
    return {**arguments, "revision": hub_commit(model, arguments.get("revision"), file)}
