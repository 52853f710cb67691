"""Where the configs and tools are, and how a config is found by its name."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from synthcap_mm.errors import UserError, near

PACKAGE_DIR = Path(__file__).resolve().parent


def shipped_dir(name: str) -> Path:
    """The folder of the shipped configs or tools.

    An installed wheel has them in ``synthcap_mm/.mim``; in a checkout (and an
    editable installation) they lie beside the package.

    Args:
        name: ``'configs'`` or ``'tools'``.

    Raises:
        UserError: if there is neither.
    """
    places = (PACKAGE_DIR / ".mim" / name, PACKAGE_DIR.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        f"synthcap_mm's {name} are neither in {places[0]} nor in {places[1]}: reinstall synthcap_mm from its wheel or "
        "checkout."
    )


def list_configs() -> list[str]:
    """Names of the shipped configs, e.g. ``'synthcap_mini.py'``, relative to their folder and sorted; no bases."""
    root = shipped_dir("configs")
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(name.as_posix() for name in names if "_base_" not in name.parts)


def resolve_config(path: str | PathLike[str]) -> Path:
    """Find a config: a file of the user's, or else a shipped one.

    A shipped config is found by its path in the configs folder, with or
    without a leading ``configs/`` and the suffix ``.py``, or by its file name
    alone where only one config has it.

    Args:
        path: what the user typed, e.g. ``'my/config.py'``, ``'synthcap_mini.py'``
            or ``'configs/synthcap_mini.py'``.

    Returns:
        An existing file; ``path`` itself if that is one.

    Raises:
        UserError: if there is no such file and no such shipped config, with the near matches.
    """
    given = Path(path)
    return given if given.is_file() else resolve_shipped(given)


def resolve_shipped(name: str | PathLike[str]) -> Path:
    """Find a shipped config, see :func:`resolve_config`; files of the user's are not looked for.

    Args:
        name: as a user may type it, or as MMEngine has it in ``_base_``: ``'synthcap_mm::NAME'`` without its scope.

    Raises:
        UserError: see there.
    """
    given, root = Path(name), shipped_dir("configs")
    wanted = given.as_posix().removeprefix("./").removeprefix("configs/")
    wanted = wanted if wanted.endswith(".py") else f"{wanted}.py"
    shipped = list_configs()
    # A path that leads elsewhere ("/tmp/a.py", "../a.py") names no shipped config.
    if not given.is_absolute() and ".." not in given.parts:
        if (root / wanted).is_file():
            return root / wanted
        same_name = [one for one in shipped if Path(one).name == wanted]
        if len(same_name) == 1:
            return root / same_name[0]
    known = {Path(one).stem: one for one in shipped}
    meant = [known[name] for name in near(Path(wanted).stem, known)]
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"shipped are: {', '.join(shipped)}."
    raise UserError(
        f"config {str(name)!r} is neither a file (looked in {Path.cwd()}) nor one of the configs shipped in {root}; "
        f"{hint}"
    )
