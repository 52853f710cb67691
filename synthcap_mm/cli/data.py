"""Commands that make and show data: synthesize, encode-images, curate, inspect-pairs, prepare-data, store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthcap_mm.cli.arguments import (
    add_config,
    add_launcher,
    add_work_dir,
    command_parser,
    load_config,
    say,
    task,
)
from synthcap_mm.errors import UserError

if TYPE_CHECKING:
    import argparse

    from mmengine.config import Config


def _maker_parser(name: str, description: str, example: str | None = None) -> argparse.ArgumentParser:
    """The parser of a command that makes shards of a config's stores, shared by any number of processes."""
    parser = command_parser(name, description, example)
    add_config(parser)
    add_launcher(parser)
    parser.add_argument(
        "--task",
        type=task,
        metavar="I/N",
        help="make share I (from 0) of N only; needs no other task, and ends with status 75 if it waits for one",
    )
    return parser


def _load_config(args: argparse.Namespace) -> Config:
    from synthcap_mm.engine.launching import set_rank_variables

    set_rank_variables(args.launcher)
    return load_config(args)


def synthesize(argv: Sequence[str]) -> None:
    """Make the store of pairs: encode captions, draw or retrieve pictures, tag, refine."""
    parser = _maker_parser(
        "synthesize",
        "Captions to a store of synthetic pairs, as the config's 'synthesis' says: encode, draw (or retrieve), tag, "
        "refine. Can be stopped at any time; the same command goes on where it was.",
        "configs/synthcap_mini.py --dry-run",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, and after a few batches the expected time and disk; leave no store",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="the first N captions only, as another view of the store: STORE/firstN.json",
    )
    parser.add_argument(
        "--only",
        choices=["text", "images", "tags", "refine"],
        help="a single stage; 'tags' finds the tags of kept images, later or anew (synthesis.keep_images)",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="draw again where the settings of pictures changed; else that is refused"
    )
    args = parser.parse_args(argv)
    if args.dry_run and args.only is not None:
        raise UserError("a dry run is of all stages: --dry-run does not go with --only")
    from synthcap_mm import pipeline

    pipeline.synthesize(_load_config(args), args.only, args.limit, args.dry_run, args.task, args.redraw)


def encode_images(argv: Sequence[str]) -> None:
    """Encode real photos of validation and test sets."""
    parser = _maker_parser(
        "encode-images",
        "Encode and tag the real photos of the config's 'photo_stores' (validation and test sets), with the encoders "
        "and the tag provider of its 'synthesis', so that every evaluation costs decoding only.",
    )
    args = parser.parse_args(argv)
    from synthcap_mm import pipeline

    pipeline.encode_images(_load_config(args), args.task)


def curate(argv: Sequence[str]) -> None:
    """Curate the pairs of a store: filter, reassign, merge duplicates."""
    parser = _maker_parser(
        "curate",
        "Another pairs table over the captions and images that a store has, as the config's 'curation' says: filter "
        "by CLIP score, reassign captions to images (SynC), merge near-duplicate captions. Reports what it changed. "
        "Can be stopped at any time; the same command goes on where it was. Docs: docs/curation.md.",
    )
    args = parser.parse_args(argv)
    from synthcap_mm import pipeline

    pipeline.curate(_load_config(args), args.task)


def inspect_pairs(argv: Sequence[str]) -> None:
    """Write a page to look at the pairs of a store."""
    parser = command_parser(
        "inspect-pairs",
        "One HTML page with everything in it: a sample of pairs with pictures, captions, tags and scores, histograms "
        "of the scores, the modality gap, the flagged images. Pictures are those that the store kept, or a retrieval "
        "pool's photos; others can be drawn again.",
    )
    add_config(parser)
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
    add_work_dir(parser, "the page")
    args = parser.parse_args(argv)
    cfg = load_config(args)
    from synthcap_mm.synthesis.page import inspect_pairs as inspect

    inspect(cfg, args.pairs, args.real_photos, args.sample, args.out, args.redraw, args.seed)


def prepare_data(argv: Sequence[str]) -> None:
    """Lay out downloaded COCO, Flickr30k and NoCaps, and check them."""
    from synthcap_mm.datasets.preparation import RECIPES, prepare

    parser = command_parser(
        "prepare-data",
        "Turns downloads into the layout that the configs expect, and checks it against the official numbers. "
        "Downloads nothing: it lists all that is missing, and where to get it (docs/data.md). Without --source it "
        "only checks.",
        "coco nocaps --source ~/Downloads",
    )
    parser.add_argument("dataset", nargs="+", choices=sorted(RECIPES), help="which datasets")
    parser.add_argument(
        "--source",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of the downloads, searched with their archives",
    )
    parser.add_argument("--out", default="data", help="folder of the layout (default: data, as in the configs)")
    parser.add_argument("--copy", action="store_true", help="copy files instead of linking them")
    parser.add_argument("--train-photos", action="store_true", help="photos of the training split too (not needed)")
    args = parser.parse_args(argv)
    say("\n".join(prepare(args.dataset, args.out, args.source, args.copy, args.train_photos)))


def store(argv: Sequence[str]) -> None:
    """List a store's tables and recipes; remove what nothing refers to; check its shards."""
    parser = command_parser(
        "store", "Lists tables, recipes and sizes of a store, and what nothing refers to.", "data/custom/pairs --check"
    )
    parser.add_argument("folder", help="the store")
    parser.add_argument("--check", action="store_true", help="compare checksums, and move damaged files away")
    parser.add_argument("--prune", action="store_true", help="list what nothing refers to, and ask to remove it")
    parser.add_argument("--configs", nargs="+", default=[], metavar="CONFIG", help="keep what these would use, too")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    args = parser.parse_args(argv)
    from synthcap_mm.progress import megabytes
    from synthcap_mm.store import Store, cleaning

    folder = Path(args.folder)
    if args.check:
        damaged = cleaning.check(folder)
        for stray in cleaning.stray_files(folder):
            say(f"no part of the store: {stray}")
        say("\n".join(f"damaged, moved away: {path}" for path in damaged) or "all checksums are right")
        if damaged:
            raise UserError(f"{len(damaged)} damaged file(s): the command that made the store makes them anew")
        for view in cleaning.views_of(folder):
            Store.open(folder / view)  # refuses a store that lacks something
    say(cleaning.describe(folder))
    if args.prune:
        files = cleaning.unused_files(folder, [table for config in args.configs for table in _tables_of(config)])
        size = megabytes(sum(path.stat().st_size for path in files))
        say("\n".join(map(str, files)))
        say(f"{len(files)} file(s), {size}, are older than a week and nothing refers to them")
        if files and (args.yes or (sys.stdin.isatty() and input("Remove them? [y/N] ").strip().lower() == "y")):
            cleaning.remove(files)
            say("removed")


def _tables_of(config: str) -> list[Any]:
    """The tables that a config's stores have."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.config_reading import read_config
    from synthcap_mm.registry import SCOPE
    from synthcap_mm.synthesis.photos import SHARED, PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    cfg = read_config(config)
    init_default_scope(SCOPE)
    models = {name: cfg.synthesis.get(name) for name in SHARED}
    makers = [Synthesis(**cfg.synthesis), *(PhotoStore(**{**models, **entry}) for entry in cfg.get("photo_stores", []))]
    return [table for maker in makers for table in maker.tables.values()]
