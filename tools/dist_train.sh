#!/usr/bin/env bash
# Usage: bash tools/dist_train.sh [CONFIG] GPUS [flags of tools/train.py]
# Trains on GPUS GPUs (or that many CPU processes); without CONFIG the flagship, configs/synthcap_coco.py.
# NNODES, NODE_RANK, MASTER_ADDR and PORT: see launch.sh.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    set -- "$(dirname "$tools")/configs/synthcap_coco.py" "$@"
fi
exec bash "$tools/launch.sh" train.py "$0" "[CONFIG]" "$@"
