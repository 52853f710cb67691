"""Ctrl-C, and a scheduler's SIGTERM: the process ends within two seconds, with a sentence, not with a traceback."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

#: Exit status after a signal.
STOPPED = 130
#: Seconds that a command has after a signal to clean up; what hangs then is left as it is.
GRACE = 1.2

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ending = threading.Lock()


@contextlib.contextmanager
def stopping_cleanly(message: str, last: Callable[[], Any] = str) -> Iterator[None]:
    """Ends the process with status 130 and a message when it is interrupted or terminated.

    The first signal raises KeyboardInterrupt in the main thread. A thread ends the process :data:`GRACE` seconds later,
    whatever the main thread waits for, and at once when a second signal comes. Other threads are not waited for, and
    the data loaders' workers are killed. Ranks of a launcher ignore further signals: torchrun sends another one to
    ranks that had the terminal's already.

    Args:
        message: printed by the main rank.
        last: called before the process ends. Default: nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if not stopped:
            stopped.append(number)
            # A terminal's signal ends the data loader's workers too, of which torch's handler would complain.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            raise KeyboardInterrupt

    with _watched(message, last):
        before = {one: signal.signal(one, stop) for one in _SIGNALS}
        try:
            yield
        except BaseException as error:
            # A library may have made another error of it: MMEngine catches all when it formats a config.
            if stopped or isinstance(error, KeyboardInterrupt):
                _end(message, last)
            raise
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


@contextlib.contextmanager
def _watched(message: str, last: Callable[[], Any]) -> Iterator[None]:
    """A thread sees each signal when it comes, also while the main thread is in a call that runs no Python."""
    seen, sent = socket.socketpair()
    sent.setblocking(False)
    before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(seen, message, last), name="synthcap signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sent.shutdown(socket.SHUT_WR)  # a forked child may have it open too
        sent.close()


# A child that is forked must not write its signals where its parent reads its own.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _watch(seen: socket.socket, message: str, last: Callable[[], Any]) -> None:
    end = None
    with seen:  # open to the end: Python complains of a signal that it cannot write
        with contextlib.suppress(TimeoutError):
            while True:
                seen.settimeout(None if end is None else max(end - time.monotonic(), 1e-3))
                number = seen.recv(1)
                if not number:  # the command has ended by itself
                    return
                if number[0] not in _SIGNALS:
                    continue
                if end is None:
                    end = time.monotonic() + GRACE
                elif "RANK" not in os.environ:
                    break
        _end(message, last)


def _end(message: str, last: Callable[[], Any]) -> NoReturn:
    if _ending.acquire(blocking=False):
        for child in multiprocessing.active_children():
            child.kill()
        # In a thread, since a full pipe makes it wait.
        said = threading.Thread(target=_say, args=(message,), daemon=True)
        said.start()
        said.join(0.3)
        last()
    else:  # another thread is about to
        time.sleep(0.5)
    os._exit(STOPPED)


def _say(message: str) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    if (os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")) == "0":
        print(f"\n{message}", file=sys.stderr, flush=True)
