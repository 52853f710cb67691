"""Export a captioner into one folder: python tools/export.py CONFIG CHECKPOINT OUT."""

import argparse

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from mmengine.config import DictAction
from mmengine.logging import MMLogger


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Config (json), weights (safetensors), memory, tokenizer and a model card in one folder, which "
        "tools/caption.py, demo/app.py and CaptionInferencer.from_pretrained take; nothing in it is executed. The "
        "folder appears whole or not at all. Its captions are compared with the captioner's own."
    )
    parser.add_argument("config", help="config file (one of the shipped ones may be named without its folder)")
    parser.add_argument("checkpoint", help="checkpoint file of tools/train.py")
    parser.add_argument("out", help="folder to make")
    parser.add_argument(
        "--include-encoder", action="store_true", help="also weights that open_clip would download at first use"
    )
    parser.add_argument("--samples", type=int, default=200, help="held-out images to compare by (default: 200)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="over the config's")
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level="INFO")

    from synthcap_mm.apis.launching import read_config
    from synthcap_mm.errors import UserError
    from synthcap_mm.inference.export import export_captioner

    try:
        export_captioner(
            read_config(args.config, args.cfg_options),
            args.checkpoint,
            args.out,
            args.include_encoder,
            args.samples,
        )
    except (UserError, ValueError, OSError, RuntimeError, ImportError) as error:  # what the user can mend
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
