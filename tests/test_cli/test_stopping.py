"""Signals end a tool with a sentence."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from command_line import ROOT
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from synthcap_mm.cli import run_ranks as launcher
from synthcap_mm.cli.run_ranks import main as run_ranks
from synthcap_mm.cli.stopping import stopping_cleanly

#: What a command does that does not end by itself.
HANGS = {
    "sleeps": "time.sleep(99)",
    "cleans up for long": """
        try:
            time.sleep(99)
        finally:
            time.sleep(99)
    """,
    "swallows errors": """
        while True:
            try:
                time.sleep(99)
            except BaseException:
                pass
    """,
    "a library makes another error of it": """
        try:
            time.sleep(99)
        except:
            raise SyntaxError("cannot format")
    """,
    "a call that runs no Python": """
        mutex = ctypes.create_string_buffer(64)
        while True:
            ctypes.CDLL(None).pthread_mutex_lock(mutex)  # the second time for good
    """,
    "waits for a thread": """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            pool.submit(time.sleep, 99)
    """,
    "has another process": """
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(99,)).start()
        time.sleep(99)
    """,
}
SCRIPT = """
import concurrent.futures, ctypes, multiprocessing, sys, time
from synthcap_mm.cli.stopping import stopping_cleanly
with stopping_cleanly("go on with: x"):
    print("written", end="")
    print("ready", file=sys.stderr, flush=True)
"""


@pytest.fixture()
def command():
    """Starts a process that does something, some Python; returns it when it is about to."""
    with contextlib.ExitStack() as stack:

        def start(work, **variables):
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT + textwrap.indent(textwrap.dedent(work), "    ")],
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # what a test leaves can be killed
            )
            stack.enter_context(process)
            stack.callback(_kill_group, process.pid)
            assert process.stderr.readline() == "ready\n"
            time.sleep(0.2)
            return process

        yield start


def _kill_group(number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


@pytest.mark.parametrize("what, number", [*((what, signal.SIGINT) for what in HANGS), ("sleeps", signal.SIGTERM)])
def test_a_signal_ends_it_with_the_message(command, what, number):
    process = command(HANGS[what])
    process.send_signal(number)
    said, complained = process.communicate(timeout=20)  # a child that lives would hold the pipes
    assert process.returncode == 130 and said == "written" and complained == "\ngo on with: x\n"


def test_only_the_main_rank_speaks(command):
    process = command(HANGS["sleeps"], RANK="1")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("written", "") and process.returncode == 130


@pytest.mark.parametrize("variables, cleaned", [({}, ""), ({"RANK": "0"}, " cleaned")])
def test_a_second_signal_ends_it_at_once_but_no_rank(command, variables, cleaned):
    process = command("""
        try:
            time.sleep(99)
        finally:
            time.sleep(0.9)
            print(" cleaned", end="")
    """, **variables)  # fmt: skip
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, complained = process.communicate(timeout=20)
    assert process.returncode == 130 and said == "written" + cleaned and complained == "\ngo on with: x\n"


def test_a_childs_signal_is_not_its_parents(command):
    process = command("""
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(99,))
        child.start()
        time.sleep(0.5)
        child.terminate()
        child.join()
        time.sleep(2)
        print(" whole", end="")
    """)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and said == "written whole"


def test_nothing_happens_without_a_signal(capsys):
    with stopping_cleanly("x"):
        pass
    with pytest.raises(ValueError), stopping_cleanly("x"):
        raise ValueError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("failed, status", [(1, 1), (75, 75), (130, 130), (-9, 137)])
def test_a_launcher_ends_with_the_status_of_the_rank_that_failed(failed, status, monkeypatch, capsys):
    failure = ProcessFailure(local_rank=1, pid=5, exitcode=failed, error_file="none")

    def fails(argv):
        raise ChildFailedError("train.py", {1: failure})

    monkeypatch.setattr(launcher, "torchrun", fails)
    assert run_ranks([]) == status
    assert ("SIGKILL" in capsys.readouterr().err) == (failed < 0)


def test_a_launcher_that_is_stopped_says_nothing_of_its_own(monkeypatch, capsys):
    def stopped(argv):
        raise SignalException("Process 1 got signal: 2", signal.SIGINT)

    monkeypatch.setattr(launcher, "torchrun", stopped)
    assert run_ranks([]) == 130 and capsys.readouterr().err == ""
