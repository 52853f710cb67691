"""Which encoder beside a store's own a component works with."""

from __future__ import annotations

from typing import Any


def named_encoder(component: Any) -> str | None:
    """Name of the encoder that a component's ``encoder`` says; ``None``: the captioner's own.

    Args:
        component: a neck, a scorer of captions or a tag provider, whose ``encoder`` may also be the encoder itself.
    """
    name = getattr(component, "encoder", None)
    return name if isinstance(name, str) else None
