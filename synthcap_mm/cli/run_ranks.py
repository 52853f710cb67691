"""torchrun, quiet about what the ranks print themselves: ``python -m synthcap_mm.cli.run_ranks …``.

The arguments are those of ``torch.distributed.run``. Where torchrun ends with status 1 and a traceback of its own, this
ends with the status of the rank that failed first.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(argv: Sequence[str] | None = None) -> int:
    """Run.

    Args:
        argv: of torchrun. Defaults to ``sys.argv[1:]``.

    Returns:
        The exit status of the rank that failed first (128 + number after a signal); 0 if none did; 130 after Ctrl-C.
    """
    # It logs each signal that it passes on, and each rank that ends.
    for name in ("torch.distributed.elastic.agent.server.api", "torch.distributed.elastic.multiprocessing.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        torchrun(argv)
    except SignalException:
        return 130
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(f"rank {rank} was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main())
