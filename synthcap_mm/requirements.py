"""Optional packages: a missing one is an error that names the pip command."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str | None = None, purpose: str | None = None) -> ModuleType:
    """Import ``module``, or say how to install it.

    Args:
        module: module to import, e.g. ``'diffusers'``.
        extra: the extra of synthcap_mm that brings it, e.g. ``'t2i'``; ``None``
            for a package of the core.
        purpose: what needs it, for the message.

    Raises:
        ImportError: with the pip command in the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = f"'synthcap_mm[{extra}]'" if extra else "synthcap_mm"
        needed = f" ({purpose} needs it)" if purpose else ""
        raise ImportError(
            f"cannot import {module!r}{needed}: {error}. Install it with: pip install {package}"
        ) from error
