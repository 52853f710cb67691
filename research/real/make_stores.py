"""The stores of the benchmark on real photos: python -m research.real.make_stores.

Captions to train on (prepare.py), pseudo images retrieved for them, and the evaluation photos, encoded and tagged. The
folders are the configs': set SYNTHCAP_REAL_DATA (the data) and SYNTHCAP_REAL_WORK (what is made). What is there is kept,
so the same command goes on where it was stopped. `research.run real` begins with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from research.real.prepare import prepare
from synthcap_mm.cli.stopping import stopping_cleanly
from synthcap_mm.commands import typed_command
from synthcap_mm.engine.launching import read_config
from synthcap_mm.errors import UserError
from synthcap_mm.pipeline import encode_images, synthesize

CONFIG = Path(__file__).resolve().parent / "configs" / "synthcap.py"


def make_stores(cfg: Config) -> None:
    """Make what is missing.

    Args:
        cfg: one of the benchmark's configs; all share the stores.

    Raises:
        FileNotFoundError: if parts of the data root are missing; all are named.
        UserError: if pictures would be drawn again, or a setting is wrong.
    """
    report = prepare(Path(cfg.data_root), Path(cfg.work_root))
    # Photos first: a detector that is missing is found out in seconds, not after the text.
    encode_images(cfg)
    print_log(f"captions: {report}", logger="current")
    synthesize(cfg)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings over the config's",
    )
    args = parser.parse_args(argv)
    with stopping_cleanly(
        "stopped. Finished shards are kept, and the same command goes on from them; type:\n  " + typed_command()
    ):
        cfg = read_config(CONFIG, args.cfg_options)
        cfg.launcher = "none"
        init_default_scope(cfg.default_scope)
        try:
            make_stores(cfg)
        except (FileNotFoundError, UserError, ImportError) as error:  # what the user can mend
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
