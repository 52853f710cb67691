"""Write a page to look at the pairs of a store: python tools/inspect_pairs.py CONFIG."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import add_common_arguments, load_config


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="One HTML page with everything in it: a sample of pairs with pictures, captions, tags and scores, "
        "histograms of the scores, the modality gap, the flagged images. Pictures are those that the store kept, or a "
        "retrieval pool's photos; others can be drawn again."
    )
    add_common_arguments(parser)
    parser.add_argument("--pairs", default="default", help="name of the pairs table (default: default)")
    parser.add_argument(
        "--real-photos",
        metavar="FOLDER",
        help="folder of real photos, or a store of them, to place beside the drawings",
    )
    parser.add_argument("--sample", type=int, default=48, help="pairs shown (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument(
        "--redraw", action="store_true", help="draw pictures that were not kept again, by caption and seed"
    )
    parser.add_argument("--out", metavar="FILE", help="page to write (default: WORK_DIR/pairs_NAME.html)")
    parser.add_argument("--work-dir", help="folder for the page (default: work_dirs/CONFIG's name)")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    cfg = load_config(args)

    from synthcap_mm.store import StoreError
    from synthcap_mm.synthesis.page import inspect_pairs

    try:
        inspect_pairs(cfg, args.pairs, args.real_photos, args.sample, args.out, args.redraw, args.seed)
    except (StoreError, ValueError, OSError, ImportError) as error:  # what the user can mend
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
