"""Signals end a tool with a sentence."""

import os
import signal

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from synthcap_mm.cli import run_ranks as launcher
from synthcap_mm.cli.run_ranks import main as run_ranks
from synthcap_mm.cli.stopping import stopping_cleanly


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rank, told", [("0", "go on with: x\n"), ("1", "")])
def test_a_signal_ends_with_the_message_of_the_main_rank(number, rank, told, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    before = signal.getsignal(number)
    cleaned = []
    with pytest.raises(SystemExit) as caught, stopping_cleanly("go on with: x"):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a launcher's second signal does not disturb the cleaning
            cleaned.append(1)
    assert caught.value.code == 130 and cleaned == [1]
    assert capsys.readouterr().err.endswith(told) and signal.getsignal(number) == before


def test_a_library_that_makes_another_error_of_it(capsys):
    with pytest.raises(SystemExit) as caught, stopping_cleanly("go on with: x"):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except:  # noqa: E722 - as MMEngine does
            raise SyntaxError("cannot format") from None
    assert caught.value.code == 130 and capsys.readouterr().err.endswith("go on with: x\n")


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
