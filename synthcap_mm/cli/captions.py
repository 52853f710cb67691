"""Commands that use a captioner, and score captions: caption, export, eval-captions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from synthcap_mm.cli.arguments import add_config, add_trust, command_parser, import_modules
from synthcap_mm.config_files import resolve_config
from synthcap_mm.errors import UserError

#: Options of `caption` that are the inferencer's.
_DECODING = (
    "num_beams", "n_best", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "sample", "top_p",
    "temperature", "seed", "rerank", "explain",
)  # fmt: skip


def caption(argv: Sequence[str]) -> None:
    """Caption photos, into a file."""
    parser = command_parser(
        "caption",
        "A line of json for each image, as soon as it is captioned. The same command goes on where it was stopped. "
        "Images that cannot be read get a line with the reason, are counted, and are tried again next time.",
    )
    parser.add_argument("model", help="config (then a checkpoint follows), or a folder that the command export made")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[CHECKPOINT] INPUT",
        help="after a config its checkpoint; then image files, folders, patterns in quotes, URLs",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, .jsonl")
    parser.add_argument("--batch-size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode images (default: 2)")
    parser.add_argument(
        "--allow-private-redirects",
        action="store_true",
        help="follow redirects of URLs to this machine and to private networks too",
    )
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
    parser.add_argument(
        "--rerank",
        action=argparse.BooleanOptionalAction,
        help="order captions by the config's ranker, without one by the encoder (default: if the config has a ranker)",
    )
    parser.add_argument("--explain", action="store_true", help="also tags, memory captions with weights, CLIPScore")
    add_trust(parser)
    parser.add_argument(
        "--import",
        dest="modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules of your own to import first, whose components an export names",
    )
    args = parser.parse_args(argv)
    is_export = Path(args.model).is_dir()
    if not is_export and len(args.inputs) < 2:
        raise UserError(f"after the config {args.model} come its checkpoint and at least one image, folder or URL")
    if not is_export:
        resolve_config(args.model)
    checkpoint, inputs = (None, args.inputs) if is_export else (args.inputs[0], args.inputs[1:])
    options = {name: getattr(args, name) for name in _DECODING}
    from synthcap_mm.inference.captioning import caption_files
    from synthcap_mm.weights_files import trusted_checkpoints

    import_modules(args.modules)
    with trusted_checkpoints(args.trust_checkpoint):
        caption_files(
            args.model, checkpoint, inputs, args.out, batch_size=args.batch_size, device=args.device, dtype=args.dtype,
            workers=args.workers, allow_private_redirects=args.allow_private_redirects, **options,
        )  # fmt: skip


def export(argv: Sequence[str]) -> None:
    """Export a captioner into one folder."""
    parser = command_parser(
        "export",
        "Config (json), weights (safetensors), memory, tokenizer and a model card in one folder, which the command "
        "caption, demo/app.py and CaptionInferencer.from_pretrained take; nothing in it is executed. The folder "
        "appears whole or not at all. How many of its captions are the captioner's own is told.",
    )
    add_config(parser)
    parser.add_argument("checkpoint", help="checkpoint file of a training")
    parser.add_argument("out", help="folder to make")
    add_trust(parser)
    parser.add_argument("--samples", type=int, default=200, help="held-out pictures to compare by (default: 200)")
    args = parser.parse_args(argv)
    from mmengine.logging import MMLogger

    from synthcap_mm.config_reading import read_config
    from synthcap_mm.inference.export import export_captioner
    from synthcap_mm.weights_files import trusted_checkpoints

    MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level="INFO")
    cfg = read_config(args.config, args.cfg_options)
    with trusted_checkpoints(args.trust_checkpoint):
        export_captioner(cfg, args.checkpoint, args.out, args.samples)


def eval_captions(argv: Sequence[str]) -> None:
    """Score predicted captions from a file, or compare two files."""
    parser = command_parser(
        "eval-captions",
        "Metrics of anybody's predictions. PRED: COCO's result format ([{image_id, caption}]), lines of "
        '{"image": ..., "caption": ...}, {image: [caption]}, or the json that a test of ours wrote. REF: COCO captions '
        "or Karpathy json, {image: [caption, ...]}, any other captions file that names the images, or a json of ours. "
        "Two PREDs are compared by a paired "
        "bootstrap over the images.",
        "mine.json theirs.json captions_val2017.json --metrics CIDEr",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="PRED REF, or A B REF")
    parser.add_argument("--metrics", nargs="+", help="names (docs/metrics.md; default: BLEU ROUGE_L CIDEr length)")
    parser.add_argument(
        "--tokenize",
        choices=("ptb", "char"),
        default="ptb",
        help="count words, or characters: for Chinese, Japanese, Thai (default: ptb, words)",
    )
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
    args = parser.parse_args(argv)
    if len(args.files) not in (2, 3):
        parser.error(f"give PRED REF, or A B REF; got {len(args.files)} files")
    of_objects = ("CHAIR", "ObjectHallucination")
    asked = sorted({*of_objects} & {*(args.metrics or ())})
    if asked and not (args.synonyms and args.instances):
        parser.error(f"{' and '.join(asked)} needs --synonyms and --instances")
    from mmengine.registry import init_default_scope

    from synthcap_mm.config_reading import read_config
    from synthcap_mm.evaluation import DEFAULT_METRICS
    from synthcap_mm.evaluation.eval_captions import eval_captions as evaluate
    from synthcap_mm.registry import SCOPE

    init_default_scope(SCOPE)
    options = {"synonyms": args.synonyms, "instances": args.instances}
    metrics = [{"type": name, **options} if name in of_objects else name for name in args.metrics or DEFAULT_METRICS]
    *predictions, references = args.files
    evaluate(
        predictions, references, metrics, split=args.split, out=args.out, store=args.store,
        encoder=None if args.config is None else read_config(args.config).synthesis.encoder,
        samples=args.samples, seed=args.seed, tokenize=args.tokenize,
    )  # fmt: skip
