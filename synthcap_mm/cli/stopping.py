"""Ctrl-C, and a scheduler's SIGTERM: an end with a sentence, not with a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from synthcap_mm.commands import typed_command


@contextlib.contextmanager
def stopping_cleanly(message: str) -> Iterator[None]:
    """Ends the process with status 130 and a message when it is interrupted or terminated.

    Signals after the first are ignored, so that cleaning up is not interrupted: torchrun sends another to ranks that
    had the terminal's already.

    Args:
        message: printed by the main rank.

    Raises:
        SystemExit: when a signal comes.
    """
    stopped = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        # A terminal's signal ends the data loader's workers too, of which torch's handler would complain.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        # A library may have made another error of it: MMEngine catches all when it formats a config.
        if not stopped and not isinstance(error, KeyboardInterrupt):
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{message}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


__all__ = ["stopping_cleanly", "typed_command"]
