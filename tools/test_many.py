"""Test a captioner on several test sets, one table: python tools/test_many.py CONFIG CHECKPOINT."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import add_common_arguments, load_config, process_group


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Metrics of a checkpoint on each of the config's 'test_sets': in-domain, cross-domain, with "
        "another memory (TT), NoCaps by domain; one table, test_many.json and test_many.csv. docs/metrics.md explains "
        "the field.",
        epilog="example: python tools/test_many.py configs/synthcap_coco.py best_CIDEr_epoch_9.pth --sets coco nocaps",
    )
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file of tools/train.py")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="names of those that are wanted (default: all)")
    parser.add_argument("--work-dir", help="folder for the results (default: work_dirs/CONFIG's name)")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    cfg = load_config(args)
    with process_group(cfg):
        from synthcap_mm.errors import UserError
        from synthcap_mm.evaluation.test_sets import test_many

        try:
            test_many(cfg, args.checkpoint, args.sets)
        except (UserError, ValueError) as error:  # what the user can mend, without a traceback
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
