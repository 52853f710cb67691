#!/usr/bin/env bash
# Usage: bash tools/torchrun.sh SCRIPT TYPED INPUTS [what was given to TYPED: INPUTS, GPUS, flags of tools/SCRIPT]
# What the dist_*.sh scripts share: torchrun of tools/SCRIPT, GPUS processes on this machine (on the CPU, with gloo,
# where it has no GPU). TYPED is the script that one typed, INPUTS what comes before GPUS, e.g. "CONFIG".
# One machine: a free port is taken; PORT names one. Several: the same command on each, with NNODES, NODE_RANK (0 to
# NNODES - 1), MASTER_ADDR (address of rank 0) and PORT (default 29500).
set -euo pipefail

script=$1 typed=$2 inputs=$3
shift 3
n=$(wc -w <<<"$inputs")
if [ $# -le "$n" ] || ! [[ ${*:n+1:1} =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: bash $typed $inputs GPUS [flags of tools/$script]" >&2
    exit 2
fi
gpus=${*:n+1:1}
tools=$(dirname "$typed")
# The command to go on with, for the message after Ctrl-C.
SYNTHCAP_COMMAND="bash$(printf ' %q' "$typed" "$@")"
# torchrun would give every process a single thread; share the cores out instead.
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > gpus ? cores / gpus : 1))}
# In a clone its own package, installed or not.
root=$(cd "$tools/.." && pwd)
if [ -d "$root/synthcap_mm" ]; then PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}; fi
export SYNTHCAP_COMMAND OMP_NUM_THREADS PYTHONPATH

# The address by number: a container's own host name often does not resolve.
where=(--standalone --local_addr=127.0.0.1)
if [ -n "${NNODES:-}${PORT:-}" ]; then
    where=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}")
fi
# torch.distributed.run, with the exit status of the rank that failed and without a traceback of its own.
exec python -m synthcap_mm.cli.run_ranks "${where[@]}" --nproc_per_node="$gpus" \
    "$tools/$script" --launcher pytorch "${@:1:n}" "${@:n+2}"
