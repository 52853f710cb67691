"""Optimised features of pairs, by ``synthesis.refine``: its settings looked at before anything is made, and used."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks import pseudo_feature_optimizer as optimizer

#: Negatives of each pair (assumed).
BANK_SIZE = 4096
#: Pairs optimised at once; it changes nothing in them but the rounding.
_BATCH = 1024


def check_refine(settings: Mapping[str, Any] | None, name: str = "synthesis.refine") -> None:
    """Refuse settings that the refine stage could not use, hours before it would find that out.

    Args:
        settings: options of :func:`~synthcap_mm.models.necks.pseudo_feature_optimizer.refine` that are numbers, and
            ``bank_size``; ``None``: no refining.
        name: of the setting, for messages. Default ``'synthesis.refine'``.

    Raises:
        ValueError: for an unknown option, with the near ones, or a value out of range; named.
    """
    if settings is None:
        return
    if not isinstance(settings, Mapping):
        raise ValueError(f"{name} is a dict of options, or None; got {settings!r}")
    known = ["bank_size", *inspect.signature(optimizer.check_settings).parameters]
    for option in settings:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{name} has no option {option!r}; {hint}They are {', '.join(known)}")
    size = settings.get("bank_size", BANK_SIZE)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{name}.bank_size must be a whole number, 1 or more, got {size!r}")
    try:
        optimizer.check_settings(**refine_options(settings))
    except UserError as error:
        raise ValueError(f"{name}: {error}") from error


def refine_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``synthesis.refine`` are options of the optimiser."""
    return {k: v for k, v in settings.items() if k != "bank_size"}


def refined(feats: torch.Tensor, text: torch.Tensor, groups: torch.Tensor, bank: Any, settings: dict) -> np.ndarray:
    """Optimised features of pairs, 1024 at a time.

    Args:
        feats: image features ``(N, D)``.
        text: features of their captions, ``(N, D)``.
        groups: their groups, ``(N,)``.
        bank: the fixed negatives: ``text``, ``image``, ``groups``.
        settings: ``synthesis.refine``.

    Returns:
        ``(N, D)`` float32.
    """
    done = [
        optimizer.refine(
            feats[a : a + _BATCH],
            text[a : a + _BATCH],
            groups[a : a + _BATCH],
            negative_text=bank.text,
            negative_image=bank.image,
            negative_groups=bank.groups,
            **refine_options(settings),
        )
        for a in range(0, len(feats), _BATCH)
    ]
    return torch.cat(done).float().cpu().numpy()
