"""From a command line to a config and a process group."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import importlib
import os
import os.path as osp
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from synthcap_mm.apis.stopping import stopping_cleanly, typed_command
from synthcap_mm.config_files import resolve_config
from synthcap_mm.errors import UserError
from synthcap_mm.installation import check_installation
from synthcap_mm.registry import SCOPE


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all tools with a config share."""
    parser.add_argument("config", help="config file (one of the shipped ones may be named without its folder)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="settings that override the config's, e.g. synthesis.seed=1 train_dataloader.batch_size=64; "
        'lists as KEY="[a,b]" or KEY=a,b',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes are started (the dist_*.sh and slurm_*.sh scripts set it)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def read_config(path: str | os.PathLike[str], options: dict[str, Any] | None = None) -> Config:
    """A config with its overrides; its custom modules are imported.

    Modules of ``custom_imports`` are found in the current folder and in the
    config's, besides wherever Python looks anyway.

    Args:
        path: file, or name of a shipped config.
        options: settings over the config's, by dotted name. Default: none.

    Raises:
        FileNotFoundError: with the near matches, if there is no such config.
        ImportError: if a module of ``custom_imports`` is found nowhere.
    """
    path = resolve_config(path)
    # `python tools/train.py` has the script's folder on the path and the console command its own; neither has the
    # user's. Last, so that a file there cannot hide an installed package.
    for folder in (os.getcwd(), str(path.resolve().parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    cfg = Config.fromfile(path, import_custom_modules=False)
    if options:
        cfg.merge_from_dict(options)
    if cfg.get("custom_imports"):
        import_modules_from_strings(**cfg.custom_imports)
    cfg.config_name = path.stem
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """The config that the arguments name, as :func:`read_config` gives it, in its scope.

    Args:
        args: what :func:`add_common_arguments` parsed; ``args.work_dir``, where
            there is one, overrides the config's (default ``work_dirs/CONFIG's name``).

    Raises:
        FileNotFoundError: see :func:`read_config`.
        ImportError: see :func:`read_config`.
    """
    check_installation()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    work_dir = getattr(args, "work_dir", None)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", cfg.config_name)
    init_default_scope(cfg.get("default_scope", SCOPE))
    return cfg


#: Modules whose functions have ``group=group.WORLD``: they keep the group of the time of their import (torch 2.11).
#: To be imported while there is none; DistributedDataParallel, MMEngine's runner and FSDP would import them later.
_KEEP_THE_GROUP = ("torch.distributed.nn", "torch.distributed.optim", "torch.distributed.fsdp.sharded_grad_scaler")

#: Seconds after an exception in which threads of the group can let go of what is done.
_MOMENT = 0.1


@contextlib.contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """A job's process group, on GPUs with NCCL, without any with gloo.

    MMEngine's own launchers call CUDA even for gloo; a group that exists already
    is taken as it is, and the model's wrapper must not name a device then.

    Without GPUs the group is left at the end, and its threads end with it. One that lives on may let go of its last
    collective's tensors while the interpreter goes down, and the process whose work is done is aborted ("terminate
    called without an active exception", torch 2.11). After an exception the group stays, since leaving it waits for
    collectives under way, and no other rank may take part in them; its threads are given a moment.

    Args:
        cfg: the config; ``cfg.launcher`` says how the processes were started.
            ``cfg.env_cfg.dist_cfg.timeout`` is how many seconds a rank waits for the others
            (default: torch's own). Ranks that make a store meet without a limit; see
            :class:`~synthcap_mm.progress.Meeting`.
    """
    launcher = cfg.launcher
    if launcher == "none" or is_distributed():
        yield
        return
    dist_cfg = dict(cfg.get("env_cfg", {}).get("dist_cfg", {"backend": "nccl"}))
    if torch.cuda.is_available():
        from mmengine.dist import init_dist

        init_dist(launcher, **dist_cfg)
        yield
        return
    if launcher == "slurm":
        os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
        os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
        os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        if "MASTER_ADDR" not in os.environ:
            nodes = subprocess.run(
                ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]],
                check=True,
                capture_output=True,
                text=True,
            )
            os.environ["MASTER_ADDR"] = nodes.stdout.split()[0]
        os.environ.setdefault("MASTER_PORT", "29500")
    elif launcher == "mpi":
        os.environ.setdefault("RANK", os.environ["OMPI_COMM_WORLD_RANK"])
        os.environ.setdefault("WORLD_SIZE", os.environ["OMPI_COMM_WORLD_SIZE"])
        os.environ.setdefault("LOCAL_RANK", os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])
    for module in _KEEP_THE_GROUP:
        importlib.import_module(module)
    seconds = dist_cfg.get("timeout")
    torch.distributed.init_process_group(
        "gloo", timeout=None if seconds is None else datetime.timedelta(seconds=seconds)
    )
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        **cfg.get("model_wrapper_cfg", {}),
    }
    try:
        yield
    except BaseException:
        time.sleep(_MOMENT)
        raise
    # First a runner, whose model holds the group. If the collector were the last to let go of it, it would wait for the
    # group's threads with Python's lock held, and they for the lock.
    gc.collect()
    if is_distributed():
        torch.distributed.destroy_process_group()


def run_store_tool(action: str, description: str, parser: argparse.ArgumentParser | None = None) -> None:
    """The command line of a tool that makes stores.

    Args:
        action: function of :mod:`synthcap_mm.pipeline` that takes the config, and
            the parser's options by name.
        description: for ``--help``.
        parser: with the tool's own options. Default ``None``: it has none.

    Raises:
        SystemExit: with a message for what the user can mend; with status 130 after Ctrl-C.
    """
    parser = parser or argparse.ArgumentParser()
    own = [option.dest for option in parser._actions if option.dest != "help"]
    parser.description = description
    add_common_arguments(parser)
    args = parser.parse_args()
    with stopping_cleanly(
        "stopped. Finished shards are kept, and the same command goes on from them; type:\n  " + typed_command()
    ):
        cfg = load_config(args)
        with process_group(cfg):
            from synthcap_mm import pipeline as workflow

            try:
                getattr(workflow, action)(cfg, **{name: getattr(args, name) for name in own})
            except UserError as error:
                raise SystemExit(str(error)) from error
