#!/usr/bin/env bash
# Usage: bash tools/dist_synthesize.sh CONFIG GPUS [flags of tools/synthesize.py]
# Makes the store on GPUS GPUs (or that many CPU processes).
# NNODES, NODE_RANK, MASTER_ADDR and PORT: see launch.sh.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" synthesize.py "$0" "CONFIG" "$@"
