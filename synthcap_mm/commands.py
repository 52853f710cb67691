"""A command as a user here would type it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

#: Set by tools/torchrun.sh and slurm_*.sh: the command that started all ranks.
TYPED_VARIABLE = "SYNTHCAP_COMMAND"


def command(name: str, *arguments: object) -> str:
    """A command line, for advice: ``python tools/train.py …`` in a clone, else ``synthcap-mm train …``.

    Args:
        name: of the command, e.g. ``'encode-images'``.
        *arguments: what follows it; those that are ``None`` are left out.
    """
    words = [str(argument) for argument in arguments if argument is not None]
    return " ".join([_program(name), *map(shlex.quote, words)])


def _program(name: str) -> str:
    started = Path(sys.argv[0])
    folder = started.parent.parent if started.parent.name == "misc" else started.parent
    if started.suffix != ".py" or folder.name != "tools":
        in_clone = (Path(__file__).parents[1] / "tools").is_dir()
        if started.name == "synthcap-mm" or not in_clone:
            return f"synthcap-mm {name}"
        folder = Path("tools")
    script = f"{name.replace('-', '_')}.py"
    return f"python {folder / 'misc' / script if name == 'print-config' else folder / script}"


def as_typed(text: str) -> str:
    """A text in which ``python tools/NAME.py`` is :func:`command`'s form of it."""
    return re.sub(r"(?:python )?(?<![\w/.-])tools/(\w+)\.py\b", lambda found: command(found[1].replace("_", "-")), text)


def typed_command(*argv: str) -> str:
    """The command that started this process, or all ranks, as one would type it again.

    Args:
        *argv: command and arguments of ``synthcap-mm``. Default: ``sys.argv``, a script's.
    """
    typed = os.environ.get(TYPED_VARIABLE)
    if typed:
        return typed
    return command(*argv) if argv else "python " + shlex.join(sys.argv)
