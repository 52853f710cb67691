"""The process group of a training or a test that runs as several processes."""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import os
import subprocess
import time
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed

from synthcap_mm.config_reading import read_config

#: Where a launcher other than torchrun says which process this is.
_RANK_VARIABLES = {
    "slurm": {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"},
    "mpi": {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    },
}


def set_rank_variables(launcher: str) -> None:
    """Set ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, as torchrun does, for Slurm and MPI.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
    """
    for name, source in _RANK_VARIABLES.get(launcher, {}).items():
        if source in os.environ:
            os.environ.setdefault(name, os.environ[source])


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
            (default: torch's own).
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
    set_rank_variables(launcher)
    if launcher == "slurm":
        if "MASTER_ADDR" not in os.environ:
            hostnames = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
            nodes = subprocess.run(hostnames, check=True, capture_output=True, text=True)
            os.environ["MASTER_ADDR"] = nodes.stdout.split()[0]
        os.environ.setdefault("MASTER_PORT", "29500")
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


__all__ = ["process_group", "read_config", "set_rank_variables"]
