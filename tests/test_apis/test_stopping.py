"""Signals end a tool with a sentence."""

import os
import signal

import pytest

from synthcap_mm.apis.run_ranks import main as run_ranks
from synthcap_mm.apis.stopping import stopping_cleanly, typed_command


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


def test_nothing_happens_without_a_signal(capsys):
    with stopping_cleanly("x"):
        pass
    with pytest.raises(ValueError), stopping_cleanly("x"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_the_command_as_it_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/synthesize.py", "my config.py", "--limit", "3"])
    monkeypatch.delenv("SYNTHCAP_COMMAND", raising=False)
    assert typed_command() == "python tools/synthesize.py 'my config.py' --limit 3"
    monkeypatch.setenv("SYNTHCAP_COMMAND", "bash tools/dist_synthesize.sh c.py 2")
    assert typed_command() == "bash tools/dist_synthesize.sh c.py 2"


def test_a_launcher_that_is_stopped_says_nothing_of_its_own(monkeypatch):
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from synthcap_mm.apis import run_ranks as module

    def stopped(argv):
        raise SignalException("Process 1 got signal: 2", signal.SIGINT)

    monkeypatch.setattr(module, "torchrun", stopped)
    with pytest.raises(SystemExit) as caught:
        run_ranks([])
    assert caught.value.code == 130
