#!/usr/bin/env bash
# Usage: bash tools/dist_curate.sh CONFIG GPUS [flags of tools/curate.py]
# Curates on GPUS GPUs (or that many CPU processes).
# NNODES, NODE_RANK, MASTER_ADDR and PORT: see launch.sh.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" curate.py "$0" "CONFIG" "$@"
