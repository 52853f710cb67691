"""torchrun, ending without a traceback of its own when it is stopped: python -m synthcap_mm.apis.run_ranks ….

The arguments are those of ``torch.distributed.run``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(argv: Sequence[str] | None = None) -> None:
    """Run.

    Args:
        argv: of torchrun. Defaults to ``sys.argv[1:]``.

    Raises:
        SystemExit: with status 130 after a signal, which the ranks have told of themselves.
        ChildFailedError: as torchrun.
    """
    # It announces each signal that it hands on; the ranks have their own words for it.
    for name in ("torch.distributed.elastic.agent.server.api", "torch.distributed.elastic.multiprocessing.api"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        torchrun(argv)
    except SignalException:
        raise SystemExit(130) from None
    except ChildFailedError as error:
        # A rank may be quicker to stop than this process is to notice the signal.
        if all(failure.exitcode == 130 for failure in error.failures.values()):
            raise SystemExit(130) from None
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
