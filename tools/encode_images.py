"""Encode real photos: python tools/encode_images.py CONFIG."""

import argparse

from synthcap_mm.apis.launching import add_common_arguments, init_distributed, load_config


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Encode and tag the real photos of the config's 'photo_stores' (validation and test sets), with "
        "the encoder and the tag provider of its 'synthesis', so that every evaluation costs decoding only.",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Run."""
    args = parse_args()
    cfg = load_config(args)
    init_distributed(cfg)

    from synthcap_mm.apis.workflow import MissingInputsError, encode_images

    try:
        encode_images(cfg)
    except MissingInputsError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; finished shards are kept, the same command goes on from them") from None


if __name__ == "__main__":
    main()
