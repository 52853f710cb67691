"""Weights files that execute something when they are loaded carelessly."""

from __future__ import annotations

import pickle
import random
import shutil
import zipfile
from pathlib import Path

import torch

from .watch import TOKEN


class _Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


def hostile_pickle(path: Path, rng: random.Random, case: Path) -> str:
    """Write a file that calls something while it is unpickled."""
    import os
    import subprocess

    victim = str(case / TOKEN)
    calls = {
        "os.system": _Calls(os.system, f"touch {victim}"),
        "subprocess.Popen": _Calls(subprocess.Popen, ["touch", victim]),
        "exec": _Calls(exec, f"open({victim!r}, 'w')"),
        "eval": _Calls(eval, f"open({victim!r}, 'w')"),
        "open": _Calls(open, victim, "w"),
        "import": _Calls(__import__, "this"),
        "torch.load": _Calls(torch.load, str(case / "victim/secret.txt")),
        "shutil": _Calls(shutil.rmtree, str(case / "victim")),
        "torch.hub": _Calls(torch.hub.load, str(case / "a/b/input"), "x"),
    }
    name = rng.choice(list(calls))
    value = {"state_dict": {"x": torch.zeros(2), "y": calls[name]}, "meta": {"z": calls[name]}}
    form = rng.choice(("zip", "legacy", "pickle"))
    if form == "pickle":
        path.write_bytes(pickle.dumps(value, protocol=rng.choice((0, 2, 4))))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    return f"a pickle ({form}) that calls {name}"


class _Script(torch.nn.Module):
    """A TorchScript module that writes a file as it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.zeros(1))

    @torch.jit.export
    def __getstate__(self):
        # type: () -> Tuple[Tensor, bool]
        return (self.logit_scale, self.training)

    @torch.jit.export
    def __setstate__(self, state):
        # type: (Tuple[Tensor, bool]) -> None
        torch.save(state[0], "FUZZ_EXECUTED_BY_TORCHSCRIPT")
        self.logit_scale = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.logit_scale


def script(path: Path, rng: random.Random) -> str:
    """Write a TorchScript archive, or a zip that looks like one."""
    torch.jit.script(_Script()).save(str(path))
    if rng.random() < 0.3:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch FUZZ_EXECUTED'\ntR.")
    return "a TorchScript archive"
