"""``synthcap-mm COMMAND``; the scripts in ``tools/`` are the same, ``python tools/COMMAND.py``.

A command is a function of one of this package's modules, which has its options and calls the package.
"""

from __future__ import annotations

import argparse
import contextlib
import dis
import errno
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from synthcap_mm.cli.captions import caption, eval_captions, export
from synthcap_mm.cli.data import curate, encode_images, inspect_pairs, prepare_data, store, synthesize
from synthcap_mm.cli.listing import list_all, print_config
from synthcap_mm.cli.stopping import stopping_cleanly
from synthcap_mm.cli.text_encoding import any_text_is_written
from synthcap_mm.cli.training import test, test_many, train
from synthcap_mm.commands import as_typed, typed_command
from synthcap_mm.config_files import PACKAGE_DIR
from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.installation import check_installation
from synthcap_mm.version import __version__

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "synthesize": synthesize,
    "encode-images": encode_images,
    "curate": curate,
    "inspect-pairs": inspect_pairs,
    "train": train,
    "test": test,
    "test-many": test_many,
    "caption": caption,
    "export": export,
    "eval-captions": eval_captions,
    "prepare-data": prepare_data,
    "print-config": print_config,
    "store": store,
    "list": list_all,
}
_KEPT = {
    "synthesize": "Finished shards are kept, and the same command goes on from them",
    "encode-images": "Finished shards are kept, and the same command goes on from them",
    "curate": "Finished shards are kept, and the same command goes on from them",
    "caption": "What is captioned is kept, and the same command goes on from it",
    "train": "Saved checkpoints are kept, and training goes on from the last one",
}
_OF_SETTINGS = (ValueError, TypeError, OSError, KeyError, ImportError, RuntimeError, AssertionError)
#: MMEngine's functions that make things of a config's settings.
_BUILDERS = ("build_from_cfg", "build_dataloader", "build_iter_from_epoch")
#: Seconds in which the main rank says what is wrong, and torchrun ends the others.
_MAIN_RANK_FIRST = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of ``synthcap-mm``; leaves the process as it was, so it may be called again.

    Ctrl-C and SIGTERM end the process, see :func:`~synthcap_mm.cli.stopping.stopping_cleanly`.

    Args:
        argv: command and its arguments. Defaults to ``sys.argv[1:]``.

    Returns:
        The exit status: 0; 1 for what the user can mend, which is printed as a sentence; 2 for a wrong command line;
        75 if another task's work is still missing.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with _process_left_as_it_was(), any_text_is_written():
        try:
            name, arguments = _parse(argv)
            with stopping_cleanly(_after_stop(name, argv)):
                check_installation()  # before anything imports MMEngine: a broken one would hide why
                COMMANDS[name](arguments)
        except SystemExit as stop:  # of argparse
            if isinstance(stop.code, str):
                _complain(as_typed(stop.code))
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception as error:
            sentence = what_to_mend(error)
            if sentence is None or os.environ.get("SYNTHCAP_TRACEBACK"):
                raise
            _complain(as_typed(sentence))  # a message of the package names the scripts of a clone
            return 75 if isinstance(error, NotYet) else 1
    return 0


def _parse(argv: Sequence[str]) -> tuple[str, list[str]]:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {function.__doc__}" for name, function in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="synthcap-mm",
        description="Trains image captioners from captions alone. `synthcap-mm COMMAND --help` explains a command.",
        epilog=f"commands:\n{listed}\n\nA CONFIG is a file, or the name of a shipped config: synthcap-mm train "
        "synthcap_mini.py\nSYNTHCAP_TRACEBACK=1 shows where in the code an error comes from.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synthcap_mm {__version__}")
    parser.add_argument("command", choices=[*COMMANDS], metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    args = parser.parse_args(argv)
    return args.command, args.arguments


def _after_stop(name: str, argv: Sequence[str]) -> str:
    if name == "train" and "--dry-run" not in argv:
        argv = [*_without_resume(argv), "--resume"]  # of a checkpoint that was named, training would go back to it
    kept = _KEPT.get(name, "Nothing was kept, and the same command begins again")
    return f"stopped. {kept}; type:\n  {typed_command(*argv)}"


def _without_resume(argv: Sequence[str]) -> list[str]:
    kept, before = [], ""
    for word in argv:
        if not word.startswith("--resume") and (before != "--resume" or word.startswith("-")):
            kept.append(word)
        before = word
    return kept


def _complain(sentence: str) -> None:
    """Print what is wrong, once: other ranks speak only if the main rank has not."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    if rank != "0":
        # What is wrong for all, the main rank says; it ends, and torchrun or srun ends this process before it speaks.
        time.sleep(_MAIN_RANK_FIRST)
        sentence = f"rank {rank}: {sentence}"
    print(sentence, file=sys.stderr, flush=True)


def what_to_mend(error: BaseException) -> str | None:
    """The sentence to print in place of a traceback, or ``None`` for an error of the program's.

    A :class:`UserError` is one. So are errors of files (a missing one, a full disk), and what this package, or a
    component or a data loader while it is built, raises of itself: a constructor's ``ValueError`` is about a setting.
    What Python or a library raises from an operation, say of arrays that do not fit, is the program's.

    Args:
        error: what a command raised.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = f" for {error.filename}" if error.filename else ""
        return (
            f"no space is left on the disk{place}. What was finished before is whole: free some space, then go on (a "
            f"training with --resume)"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{type(error).__name__}: {error}"
    if isinstance(error, _OF_SETTINGS) and _raised_for_settings(error):
        return str(error.args[0]) if isinstance(error, KeyError) else str(error)
    return None


def _raised_for_settings(error: BaseException) -> bool:
    steps = [(step.tb_frame.f_code, step.tb_lasti) for step in _steps(error.__traceback__)]
    if not steps:
        return False
    code, at = steps[-1]
    if code.co_name == "build_from_cfg":  # by MMEngine itself
        return True
    building = any(step.co_name in _BUILDERS for step, _ in steps)
    if building and isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return True
    ours = code.co_filename.startswith(str(PACKAGE_DIR))
    return dis.opname[code.co_code[at]] == "RAISE_VARARGS" and (ours or building)


def _steps(step: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next


@contextlib.contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    """Undo what a command sets for the whole process: variables, module path, MMEngine's loggers and scopes."""
    environment, path, managed = dict(os.environ), list(sys.path), _managed()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for kind, now in _managed().items():
            before = managed.get(kind, {})
            for name, instance in now.items():
                if name not in before:
                    for handler in getattr(instance, "handlers", ()):
                        handler.close()
            kind._instance_dict.clear()
            kind._instance_dict.update(before)


def _managed() -> dict[Any, dict[str, Any]]:
    """MMEngine's instances that are known by name (loggers, scopes, message hubs, visualizers), by class."""
    if "mmengine.utils" not in sys.modules:
        return {}
    from mmengine.utils import ManagerMixin

    kinds, found = [ManagerMixin], {}
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found[kind] = dict(getattr(kind, "_instance_dict", {}))
    return found


__all__ = ["COMMANDS", "main", "what_to_mend"]
