#!/usr/bin/env bash
# Usage: bash tools/dist_train.sh [CONFIG] GPUS [flags of tools/train.py]; see torchrun.sh.
# Without CONFIG it trains the flagship, synthcap_coco.py.
if [[ ${1:-} =~ ^[0-9]+$ ]]; then set -- synthcap_coco.py "$@"; fi
exec bash "$(dirname "$0")/torchrun.sh" train.py "$0" CONFIG "$@"
