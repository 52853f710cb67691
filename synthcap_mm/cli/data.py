"""Commands that make and show data: synthesize, encode-images, curate, inspect-pairs, prepare-data, store."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
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


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        type=task,
        metavar="I/N",
        help="make share I (from 0) of N only; needs no other task, and ends with status 75 if it waits for one",
    )


def _make(action: Callable[..., Any], cfg: Config, **options: Any) -> None:
    """Call what makes data, with the options that it takes.

    It shares its work by RANK and WORLD_SIZE, or by ``task``.
    """
    from synthcap_mm.apis.launching import process_group, set_rank_variables

    # Until all take `task` and `redraw`: those that do need no process group.
    taken = inspect.signature(action).parameters
    refused = [name for name, value in options.items() if value and name not in taken]
    if refused:
        raise UserError(f"{action.__name__} does not take {', '.join(f'--{name}' for name in refused)} yet")
    set_rank_variables(cfg.launcher)
    with contextlib.nullcontext() if "task" in taken else process_group(cfg):
        action(cfg, **{name: value for name, value in options.items() if name in taken})


def synthesize(argv: Sequence[str]) -> None:
    """Make the store of pairs: encode captions, draw or retrieve pictures, tag, refine."""
    parser = command_parser(
        "synthesize",
        "Captions to a store of synthetic pairs, as the config's 'synthesis' says: encode, draw (or retrieve), tag, "
        "refine. Can be stopped at any time; the same command goes on where it was.",
        "configs/synthcap_mini.py --dry-run",
    )
    add_config(parser)
    add_launcher(parser)
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
    _add_task(parser)
    parser.add_argument(
        "--redraw", action="store_true", help="draw again where the settings of pictures changed; else that is refused"
    )
    args = parser.parse_args(argv)
    if args.dry_run and args.only is not None:
        raise UserError("a dry run is of all stages: --dry-run does not go with --only")
    cfg = load_config(args)
    from synthcap_mm.apis import workflow

    _make(
        workflow.synthesize, cfg, only=args.only, limit=args.limit, dry_run=args.dry_run, task=args.task,
        redraw=args.redraw,
    )  # fmt: skip


def encode_images(argv: Sequence[str]) -> None:
    """Encode real photos of validation and test sets."""
    parser = command_parser(
        "encode-images",
        "Encode and tag the real photos of the config's 'photo_stores' (validation and test sets), with the encoder "
        "and the tag provider of its 'synthesis', so that every evaluation costs decoding only.",
    )
    add_config(parser)
    add_launcher(parser)
    _add_task(parser)
    args = parser.parse_args(argv)
    cfg = load_config(args)
    from synthcap_mm.apis import workflow

    _make(workflow.encode_images, cfg, task=args.task)


def curate(argv: Sequence[str]) -> None:
    """Curate the pairs of a store: filter, reassign, merge duplicates."""
    parser = command_parser(
        "curate",
        "Another pairs table over the captions and images that a store has, as the config's 'curation' says: filter "
        "by CLIP score, reassign captions to images (SynC), merge near-duplicate captions. Reports what it changed. "
        "Can be stopped at any time; the same command goes on where it was. Docs: docs/curation.md.",
    )
    add_config(parser)
    add_launcher(parser)
    _add_task(parser)
    parser.add_argument(
        "--replace", action="store_true", help="replace a table of the same name that was made with other settings"
    )
    args = parser.parse_args(argv)
    cfg = load_config(args)
    from synthcap_mm.apis import workflow

    _make(workflow.curate, cfg, task=args.task, replace=args.replace)


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
    from synthcap_mm.apis import workflow

    workflow.inspect_pairs(cfg, args.pairs, args.real_photos, args.sample, args.out, args.redraw, args.seed)


def prepare_data(argv: Sequence[str]) -> None:
    """Lay out downloaded COCO, Flickr30k and NoCaps, and check them."""
    from synthcap_mm.datasets.preparation import RECIPES, PreparationError, prepare

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
    try:
        say("\n".join(prepare(args.dataset, args.out, args.source, args.copy, args.train_photos)))
    except PreparationError as error:
        raise UserError(str(error)) from error


def store(argv: Sequence[str]) -> None:
    """List a store's tables and recipes; remove what nothing refers to; check its shards."""
    parser = command_parser(
        "store", "Lists tables, recipes and sizes of a store, and what nothing refers to.", "data/custom/pairs --check"
    )
    parser.add_argument("folder", help="the store")
    parser.add_argument("--prune", action="store_true", help="remove what nothing refers to")
    parser.add_argument("--check", action="store_true", help="compare hashes, and move damaged shards away")
    args = parser.parse_args(argv)
    # TODO: with the new store.
    raise UserError(f"the command store is not there yet, so nothing was done with {args.folder}")
