"""Make the store of pairs: python tools/synthesize.py CONFIG."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.launching import run_store_tool

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        epilog="examples: python tools/synthesize.py configs/synthcap_mini.py --dry-run; "
        "bash tools/dist_synthesize.sh configs/synthcap_coco.py 8 --limit 1000"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, and after a few batches the expected time and disk; leave no store",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N captions only, into a store STORE_firstN")
    parser.add_argument(
        "--only",
        choices=["text", "images", "tags", "refine"],
        help="a single stage; 'tags' finds the tags of kept images, later or anew (synthesis.keep_images)",
    )
    run_store_tool(
        "synthesize",
        "Captions to a store of synthetic pairs, as the config's 'synthesis' says: encode, draw (or retrieve), tag, "
        "refine. Can be stopped at any time; the same command goes on where it was.",
        parser,
    )
