"""Lay out downloaded COCO, Flickr30k, NoCaps: python tools/prepare_data.py coco --source DOWNLOADS."""

import argparse

from synthcap_mm.datasets.preparation import RECIPES, prepare
from synthcap_mm.errors import UserError


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Turns downloads into the layout that the configs expect, and checks it against the official "
        "numbers. Downloads nothing: it lists all that is missing, and where to get it (docs/data.md). Without "
        "--source it only checks.",
        epilog="example: python tools/prepare_data.py coco nocaps --source ~/Downloads",
    )
    parser.add_argument("dataset", nargs="+", choices=sorted(RECIPES), help="which datasets")
    parser.add_argument(
        "--source",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of the unpacked downloads",
    )
    parser.add_argument("--out", default="data", help="folder of the layout (default: data, as in the configs)")
    parser.add_argument("--copy", action="store_true", help="copy files instead of linking them")
    parser.add_argument("--train-photos", action="store_true", help="photos of the training split too (not needed)")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    try:
        print("\n".join(prepare(args.dataset, args.out, args.source, args.copy, args.train_photos)))
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
