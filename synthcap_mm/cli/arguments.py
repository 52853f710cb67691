"""What the commands share: a parser, the config and its options."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from synthcap_mm.commands import command
from synthcap_mm.errors import UserError
from synthcap_mm.files import as_text

if TYPE_CHECKING:
    from mmengine.config import Config


def command_parser(name: str, description: str, example: str | None = None) -> argparse.ArgumentParser:
    """A command's parser.

    Args:
        name: of the command.
        description: for ``--help``.
        example: arguments to show there, after the command. Default: none.
    """
    epilog = None if example is None else f"example: {command(name)} {example}"
    return argparse.ArgumentParser(prog=command(name), description=description, epilog=epilog)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that takes a config."""
    parser.add_argument("config", help="config file (one of the shipped ones may be named without its folder)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config's, e.g. synthesis.seed=1 train_dataloader.batch_size=64; "
        'lists as KEY="[a,b]" or KEY=a,b. A key that nothing would read is refused',
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """The arguments of commands that run as several processes."""
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes are started (the dist_*.sh and slurm_*.sh scripts set it)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_work_dir(parser: argparse.ArgumentParser, holds: str) -> None:
    """``--work-dir``, a folder for what ``holds`` says."""
    parser.add_argument("--work-dir", help=f"folder for {holds} (default: work_dirs/CONFIG's name)")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """``--trust-checkpoint``, of commands that read a checkpoint."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="execute what the checkpoints hold beside tensors and plain values: for files of your own only",
    )


def import_modules(names: Sequence[str]) -> None:
    """Import a user's modules, which may lie in the current folder.

    Args:
        names: of the modules.

    Raises:
        UserError: if there is none of a name.
    """
    folder = os.getcwd()
    added = [] if folder in sys.path else [folder]
    sys.path += added
    try:
        for name in names:
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"--import: {error}; looked in Python's own path and in {folder}") from error
    finally:  # whatever else lies in this folder is not imported by chance
        for one in added:
            sys.path.remove(one)


def task(text: str) -> tuple[int, int]:
    """``'3/64'`` as ``(3, 64)``: the fourth of 64 shares.

    Raises:
        argparse.ArgumentTypeError: if that is no share.
    """
    number, slash, count = text.partition("/")
    if not slash or not number.isdigit() or not count.isdigit() or int(number) >= int(count):
        raise argparse.ArgumentTypeError(f"{text!r} is no share: I/N with I from 0 to N - 1, e.g. 0/8")
    return int(number), int(count)


def load_config(args: argparse.Namespace) -> Config:
    """The config that the arguments name, in its scope, with ``work_dir`` and ``launcher``.

    Raises:
        UserError: see :func:`~synthcap_mm.config_reading.read_config`; for a work dir whose name is not UTF-8, which
            MMEngine cannot write into its files.
    """
    from mmengine.registry import init_default_scope

    from synthcap_mm.config_reading import read_config
    from synthcap_mm.registry import SCOPE

    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = getattr(args, "launcher", "none")
    if cfg.launcher != "none":
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.work_dir = getattr(args, "work_dir", None) or cfg.get("work_dir") or str(Path("work_dirs") / cfg.config_name)
    if (shown := as_text(cfg.work_dir)) != cfg.work_dir:
        raise UserError(f"the work dir {shown} has a name that is not UTF-8: give another --work-dir")
    init_default_scope(cfg.get("default_scope", SCOPE))
    return cfg


def say(text: str) -> None:
    """Print to stdout; a reader that went away (``| head``) is no fault."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = None  # nothing is flushed at exit
