"""Score predicted captions from a file, or compare two files: python tools/eval_captions.py PRED.json REF.json."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Metrics of anybody's predictions. PRED: COCO's result format ([{image_id, caption}]), lines of "
        '{"image": ..., "caption": ...}, or the json that a test of ours wrote. REF: COCO captions or Karpathy json, '
        "any other captions file that names the images, or a json of ours. Two PREDs are compared by a paired "
        "bootstrap over the images.",
        epilog="example: python tools/eval_captions.py mine.json theirs.json captions_val2017.json --metrics CIDEr",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="PRED REF, or A B REF")
    parser.add_argument("--metrics", nargs="+", help="names (docs/metrics.md; default: BLEU ROUGE_L CIDEr length)")
    parser.add_argument("--split", help="of the references, where they have splits (Karpathy's: test)")
    parser.add_argument(
        "--out", metavar="FILE", help="json to write: averages and each image's scores, or the comparison"
    )
    parser.add_argument("--store", help="store of the photos, for CLIPScore and RefCLIPScore")
    parser.add_argument("--config", help="config whose synthesis.encoder made that store")
    parser.add_argument(
        "--synonyms", help="list of objects' names, for CHAIR (the published one) and ObjectHallucination"
    )
    parser.add_argument("--instances", nargs="+", help="COCO instances json(s) of the images, for the same two")
    parser.add_argument("--samples", type=int, default=10000, help="resamples of the comparison (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the comparison (default: 0)")
    args = parser.parse_args()
    if len(args.files) not in (2, 3):
        parser.error(f"give PRED REF, or A B REF; got {len(args.files)} files")
    objects = {"CHAIR", "ObjectHallucination"} & set(args.metrics or ())
    if objects and not (args.synonyms and args.instances):
        parser.error(f"{' and '.join(sorted(objects))} needs --synonyms and --instances")
    return args


def main() -> None:
    """Run."""
    args = parse_args()

    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    from synthcap_mm.config_files import resolve_config
    from synthcap_mm.errors import UserError
    from synthcap_mm.evaluation import DEFAULT_METRICS
    from synthcap_mm.evaluation.eval_captions import eval_captions
    from synthcap_mm.registry import SCOPE

    init_default_scope(SCOPE)
    options = {"synonyms": args.synonyms, "instances": args.instances}
    metrics = [
        {"type": name, **options} if name in ("CHAIR", "ObjectHallucination") else name
        for name in args.metrics or DEFAULT_METRICS
    ]
    *predictions, references = args.files
    try:
        encoder = None
        if args.config is not None:
            cfg = Config.fromfile(resolve_config(args.config), import_custom_modules=False)
            if cfg.get("custom_imports"):
                import_modules_from_strings(**cfg.custom_imports)
            encoder = cfg.synthesis.encoder
        eval_captions(
            predictions,
            references,
            metrics,
            split=args.split,
            out=args.out,
            store=args.store,
            encoder=encoder,
            samples=args.samples,
            seed=args.seed,
        )
    except (UserError, ValueError, OSError) as error:  # what the user can mend
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
