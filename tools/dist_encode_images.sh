#!/usr/bin/env bash
# Usage: bash tools/dist_encode_images.sh CONFIG GPUS [flags of tools/encode_images.py]; see torchrun.sh.
exec bash "$(dirname "$0")/torchrun.sh" encode_images.py "$0" CONFIG "$@"
