"""Prints a config with its bases merged and its overrides applied."""

from __future__ import annotations

import argparse

from mmengine.config import Config, DictAction

from synthcap_mm.config_files import resolve_config


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, or the name of a shipped config")
    parser.add_argument("--save-path", help="write the config to this file (.py, .json or .yaml) as well")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override fields, e.g. train_cfg.max_epochs=2 model.necks.1.temperature=0.07 'names=[a,b]'",
    )
    return parser.parse_args()


def main() -> None:
    """Print, and with ``--save-path`` write, the merged config."""
    args = parse_args()
    config = Config.fromfile(resolve_config(args.config))
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    print(config.pretty_text)
    if args.save_path:
        config.dump(args.save_path)


if __name__ == "__main__":
    main()
