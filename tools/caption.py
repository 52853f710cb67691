"""Caption photos: python tools/caption.py CONFIG_OR_EXPORT [CHECKPOINT] INPUTS --out captions.jsonl."""

import argparse
from pathlib import Path

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from synthcap_mm.apis.stopping import stopping_cleanly, typed_command


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="A line of json for each image, as soon as it is captioned. The same command goes on where it was "
        "stopped. Images that cannot be read get a line with the reason, are counted, and are tried again next time."
    )
    parser.add_argument("model", help="config (then a checkpoint follows), or a folder of tools/export.py")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[CHECKPOINT] INPUT",
        help="after a config its checkpoint; then image files, folders, patterns in quotes, URLs",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .jsonl")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode images (default: 2)")
    parser.add_argument("--device", help="torch device (default: the GPU if there is one)")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16, of the decoder")
    parser.add_argument("--num-beams", type=int, help="1 is greedy (default: the config's)")
    parser.add_argument("--n-best", type=int, default=1, help="captions of each image (default: 1)")
    parser.add_argument("--length-penalty", type=float, help="above 0: longer captions, below: shorter")
    parser.add_argument("--max-length", type=int, help="most tokens (default: as trained)")
    parser.add_argument("--min-length", type=int, default=0, help="least tokens (default: 0)")
    parser.add_argument("--no-repeat-ngram-size", type=int, default=0, help="no n tokens twice (default: 0, off)")
    parser.add_argument("--sample", action="store_true", help="draw captions (nucleus sampling)")
    parser.add_argument("--top-p", type=float, default=0.9, help="with --sample (default: 0.9)")
    parser.add_argument("--temperature", type=float, default=1.0, help="with --sample (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="with --sample (default: 0)")
    parser.add_argument("--rerank", action="store_true", help="order the beams by CLIPScore")
    parser.add_argument("--explain", action="store_true", help="also tags, memory captions with weights, CLIPScore")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    is_export = Path(args.model).is_dir()
    if not is_export and len(args.inputs) < 2:
        raise SystemExit(f"after the config {args.model} come its checkpoint and at least one image, folder or URL")
    checkpoint, inputs = (None, args.inputs) if is_export else (args.inputs[0], args.inputs[1:])
    with stopping_cleanly(
        "stopped. What is captioned is kept, and the same command goes on from it; type:\n  " + typed_command()
    ):
        from synthcap_mm.errors import UserError
        from synthcap_mm.inference.captioning import caption_files

        options = {
            name: getattr(args, name)
            for name in (
                "num_beams", "n_best", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "sample",
                "top_p", "temperature", "seed", "explain",
            )
        }  # fmt: skip
        if args.rerank:
            options["rerank"] = True
        try:
            caption_files(
                args.model,
                checkpoint,
                inputs,
                args.out,
                batch_size=args.batch_size,
                device=args.device,
                dtype=args.dtype,
                workers=args.workers,
                **options,
            )
        except (UserError, ValueError, OSError, RuntimeError, ImportError) as error:  # what the user can mend
            raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
