"""A command as a user types it, in this process or, where that matters, in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from mmengine.logging import MMLogger

from synthcap_mm.cli import main

ROOT = Path(__file__).resolve().parents[1]


def run_command(folder, name, *arguments, status=0):
    """What ``synthcap-mm NAME ARGUMENTS`` prints in a folder; its exit status must be ``status``."""
    said, before = io.StringIO(), os.getcwd()
    MMLogger._instance_dict.clear()  # one that an earlier test left would write to that test's output
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = main([name, *map(str, arguments)])
    finally:
        os.chdir(before)
    assert found == status, said.getvalue()
    return said.getvalue()


def run_process(folder, *command, status=0, path=ROOT, **variables):
    """What a process prints; ``path`` is on Python's path, ``None`` for nothing."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    env.pop("PYTHONPATH", None)
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**env, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr
