"""Which versions of which libraries made a store's shards.

They are recorded and told, and never a reason to refuse a store: a change of
version usually leaves the features as they were up to rounding, and where it
does not, the encoder's fingerprint shows it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Any

#: Import name → distributions that bring it, the first one installed counts.
_DISTRIBUTIONS = {
    "synthcap_mm": ("synthcap_mm",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "open_clip": ("open_clip_torch",),
    "transformers": ("transformers",),
    "diffusers": ("diffusers",),
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "pyarrow": ("pyarrow",),
}
#: Fields of a component's provenance that name a library's version.
LIBRARIES = frozenset(_DISTRIBUTIONS)


def library_versions() -> dict[str, str]:
    """Python and the libraries that have a part in a store, with their versions; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def without_versions(settings: Any) -> Any:
    """Settings of a component without the versions in them."""
    if isinstance(settings, dict):
        return {k: without_versions(v) for k, v in settings.items() if k not in LIBRARIES}
    return [without_versions(v) for v in settings] if isinstance(settings, (list, tuple)) else settings


def settings_digest(settings: Any) -> str | None:
    """A short name for a component's settings, whatever the versions; ``None`` for no component."""
    if settings is None:
        return None
    text = json.dumps(without_versions(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version_changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """What differs between two of :func:`library_versions`, one text each."""
    return [
        f"{name} {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
