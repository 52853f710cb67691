#!/usr/bin/env bash
# Usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
# Tests a checkpoint on GPUS GPUs (or that many CPU processes).
# NNODES, NODE_RANK, MASTER_ADDR and PORT: see launch.sh.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" test.py "$0" "CONFIG CHECKPOINT" "$@"
