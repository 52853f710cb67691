"""Curate the pairs of a store: python tools/curate.py CONFIG."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import add_common_arguments, load_config, process_group
from synthcap_mm.apis.stopping import stopping_cleanly, typed_command


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Another pairs table over the captions and images that a store has, as the config's 'curation' "
        "says: filter by CLIP score, reassign captions to images (SynC), merge near-duplicate captions. Reports what "
        "it changed. Can be stopped at any time; the same command goes on where it was. Docs: docs/curation.md."
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--replace", action="store_true", help="replace a table of the same name that was made with other settings"
    )
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    with stopping_cleanly(
        "stopped. Finished parts are kept, and the same command goes on from them; type:\n  " + typed_command()
    ):
        cfg = load_config(args)
        with process_group(cfg):
            from synthcap_mm.pipeline import curate
            from synthcap_mm.store import StoreError

            try:
                curate(cfg)
            except (StoreError, ValueError, ImportError) as error:  # what the user can mend, without a traceback
                raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
