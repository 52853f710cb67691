"""Trainings that kill themselves where they are told: python killed.py JOBS.json.

The modules are imported once, in this process; each rank of each training is a process forked from it, so that a run
costs the second or two that it takes, and not the ten of importing torch, transformers and matplotlib.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import components  # noqa: F401 - registers the tiny parts
import matplotlib.pyplot  # noqa: F401 - the visualizer's
import torch
import torch._dynamo  # the optimizers'
import torchvision  # noqa: F401 - the log of the environment's
import transformers.models.gpt2.modeling_gpt2  # noqa: F401 - the head's
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from small_runner import make_runner

from synthcap_mm.engine import atomic_backend
from synthcap_mm.registry import HOOKS


def die():
    """SIGKILL to all ranks and their workers, as the kernel or a scheduler would: nobody cleans up anything."""
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def half_written(path):
    """In the place of ``write_atomically``: half of the file is on the disk when its writer dies."""
    with _write_atomically(path) as file:

        class Half:
            def write(self, content):
                file.write(content[: len(content) // 2])
                file.flush()
                die()

        yield Half()


_write_atomically = atomic_backend.write_atomically
Runner._log_env = lambda self, env_cfg: None  # asks compilers and drivers for their versions: a second, every time


@HOOKS.register_module()
class Killer(Hook):
    """Dies at one place.

    Args:
        at: ``'epoch'``: in the midst of the third epoch; ``'validation'``: of the second epoch's validation;
            ``'save'``: of writing the second epoch's checkpoint; ``'best'``: of writing the best one after it.
    """

    priority = "VERY_HIGH"  # before the checkpoint is written

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.at == "epoch" and runner.epoch == 2 and batch_idx == 1:
            self.die_on_rank_0()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.at == "validation" and runner.epoch == 2:
            self.die_on_rank_0()

    def after_train_epoch(self, runner):
        if self.at == "save" and runner.epoch == 1:  # counted up after this
            atomic_backend.write_atomically = half_written

    def after_val_epoch(self, runner, metrics=None):
        if self.at == "best" and runner.epoch == 2:
            atomic_backend.write_atomically = half_written

    @staticmethod
    def die_on_rank_0():
        if get_rank() == 0:
            die()


@HOOKS.register_module()
class SecondIsBest(Hook):
    """Makes the second epoch the best: the one whose validation is broken off."""

    priority = "VERY_HIGH"  # before anyone has looked at the score

    def after_val_epoch(self, runner, metrics=None):
        metrics["score"] -= abs(runner.epoch - 2)


def train(at, resume, **settings):
    """One rank of a training, with a diary at its end."""
    torch.set_num_threads(1)
    init_default_scope("synthcap_mm")
    changes = {}
    if int(os.environ["WORLD_SIZE"]) > 1:
        torch.distributed.init_process_group("gloo")
        wrapper = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, "device_ids": None}
        changes = {"launcher": "pytorch", "cfg": {"model_wrapper_cfg": wrapper}}
    hooks = [{"type": "SecondIsBest"}] + ([{"type": "Killer", "at": at}] if at else [])
    runner, diary = make_runner(**settings, resume=resume, hooks=hooks, epochs=3, **changes)
    runner.train()
    figures = {"losses": diary.losses, "scores": diary.scores, "best": runner.message_hub.get_info("best_ckpt")}
    (Path(settings["work_dir"]) / f"figures{get_rank()}.json").write_text(json.dumps(figures))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fork(rank, ranks, port, group, job):
    """A rank in a process of its own, in the process group of rank 0; its number."""
    number = os.fork()
    if number:
        os.setpgid(number, group or number)
        return number
    status = 1
    try:
        os.setpgid(0, group or 0)
        said = os.open(Path(job["work_dir"]) / f"said{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        train(**job)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(ranks, **job):
    """The exit codes of the ranks of a training; minus the signal's number for one that was killed."""
    Path(job["work_dir"]).mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    numbers = []
    for rank in range(ranks):
        numbers.append(fork(rank, ranks, port, numbers[0] if numbers else None, job))
    return [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.with_name("codes.json").write_text(json.dumps([run(**job) for job in json.loads(file.read_text())]))
