"""Finds open-mmlab's and onedl's distributions installed over each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from synthcap_mm.errors import UserError

#: Import name, onedl's distribution, and open-mmlab's ones that hold the same files.
_RIVALS = (
    ("mmengine", "onedl-mmengine", ("mmengine", "mmengine-lite")),
    ("mmcv", "onedl-mmcv", ("mmcv", "mmcv-lite", "mmcv-full")),
    ("mmdet", "onedl-mmdetection", ("mmdet",)),
)


@dataclass(frozen=True, slots=True)
class Clash:
    """Distributions that install the same package.

    Attributes:
        module: the import name, e.g. ``'mmcv'``.
        onedl: onedl's distribution and its version.
        rivals: open-mmlab's distributions and their versions.
    """

    module: str
    onedl: tuple[str, str]
    rivals: tuple[tuple[str, str], ...]


def find_clashes(path: Iterable[str] | None = None) -> list[Clash]:
    """Distributions of open-mmlab and onedl that overwrite each other's files.

    Args:
        path: folders to look for installed distributions in. Defaults to
            ``sys.path``.
    """
    clashes = []
    for module, onedl, rivals in _RIVALS:
        there = {name: version for name in (onedl, *rivals) if (version := _version(name, path)) is not None}
        if onedl in there and len(there) > 1:
            clashes.append(Clash(module, (onedl, there.pop(onedl)), tuple(there.items())))
    return clashes


def _version(name: str, path: Iterable[str] | None) -> str | None:
    """Version of the distribution that is imported: the first on the path."""
    where = {} if path is None else {"path": [str(entry) for entry in path]}
    for distribution in metadata.distributions(name=name, **where):
        if distribution.metadata["Name"]:  # a folder that pip leaves when it is killed has none
            return distribution.version
    return None


def check_installation(path: Iterable[str] | None = None) -> None:
    """Refuse an environment in which open-mmlab's and onedl's distributions overwrote each other.

    Both give the import names ``mmengine``, ``mmcv`` and ``mmdet``: which
    file is whose then depends on the order of installation, and uninstalling
    one tears holes into the other, so both must go before onedl's comes back.

    Args:
        path: folders to look for installed distributions in. Defaults to
            ``sys.path``.

    Raises:
        UserError: naming the distributions and the commands that mend it.
    """
    clashes = find_clashes(path)
    if not clashes:
        return
    listed = [
        f"  {clash.module}: {' and '.join(' '.join(name) for name in (*clash.rivals, clash.onedl))}"
        for clash in clashes
    ]
    remove = " ".join(name for clash in clashes for name, _ in (*clash.rivals, clash.onedl))
    restore = " ".join("==".join(clash.onedl) for clash in clashes)
    # mmcv may have to be compiled, against the torch that is installed.
    flags = "--no-build-isolation " if any(clash.module == "mmcv" for clash in clashes) else ""
    raise UserError(
        "open-mmlab's and onedl's distributions are installed over each other, so their files are mixed:\n"
        + "\n".join(listed)
        + f"\nRemove both and install onedl's again:\n  pip uninstall -y {remove}\n  pip install {flags}{restore}"
    )
