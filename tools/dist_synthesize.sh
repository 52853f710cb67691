#!/usr/bin/env bash
# Usage: bash tools/dist_synthesize.sh CONFIG GPUS [flags of tools/synthesize.py]
# Makes the store on GPUS GPUs (or that many CPU processes).
# NNODES, NODE_RANK, MASTER_ADDR and PORT: see launch.sh.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ]; then
    echo "usage: bash $0 CONFIG GPUS [flags of tools/synthesize.py]" >&2
    exit 2
fi
# What to type to go on, for the message after Ctrl-C.
SYNTHCAP_COMMAND="bash$(printf ' %q' "$0" "$@")"
export SYNTHCAP_COMMAND
config=$1
gpus=$2
shift 2
exec bash "$tools/launch.sh" synthesize.py "$gpus" "$config" "$@"
