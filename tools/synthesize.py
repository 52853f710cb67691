"""Make the store of pairs: python tools/synthesize.py CONFIG."""

import argparse

from synthcap_mm.apis.launching import add_common_arguments, init_distributed, load_config


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Captions to a store of synthetic pairs, as the config's 'synthesis' says: encode, draw (or "
        "retrieve), tag, refine. Can be stopped at any time; the same command goes on where it was.",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    cfg = load_config(args)
    init_distributed(cfg)

    from synthcap_mm.apis.workflow import MissingInputsError, synthesize

    try:
        synthesize(cfg)
    except MissingInputsError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; finished shards are kept, the same command goes on from them") from None


if __name__ == "__main__":
    main()
