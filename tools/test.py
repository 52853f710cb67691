"""Test a captioner: python tools/test.py CONFIG CHECKPOINT."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import add_common_arguments, load_config, process_group


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Metrics of a checkpoint on the config's test split: a table, test_metrics.json and a gallery."
    )
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file of tools/train.py")
    parser.add_argument("--work-dir", help="folder for the results (default: work_dirs/CONFIG's name)")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    cfg = load_config(args)
    with process_group(cfg):
        from synthcap_mm.errors import UserError as MissingInputsError
        from synthcap_mm.pipeline import test
        from synthcap_mm.store import StoreError

        try:
            test(cfg, args.checkpoint)
        except (MissingInputsError, StoreError) as error:  # what the user can mend, without a traceback
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
