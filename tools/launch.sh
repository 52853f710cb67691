#!/usr/bin/env bash
# Usage: bash tools/launch.sh SCRIPT TYPED INPUTS [what was given to the script TYPED: INPUTS, GPUS, flags of tools/SCRIPT]
# What the dist_*.sh scripts share: as many processes of tools/SCRIPT on this machine as GPUS says,
# one for each GPU, or on the CPU (gloo) where there is none. INPUTS names what comes before GPUS, e.g. "CONFIG".
#
# One machine: a free port is taken, so that two jobs do not clash; PORT names one.
# Several machines: run the same command on each, with
#   NNODES (their number)  NODE_RANK (0 to NNODES - 1)  MASTER_ADDR (address of rank 0)  PORT (default 29500)
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tools")
script=$1
typed=$2
read -ra inputs <<<"$3"
shift 3
if [ $# -le ${#inputs[@]} ]; then
    echo "usage: bash $typed ${inputs[*]} GPUS [flags of tools/$script]" >&2
    exit 2
fi
# What to type to go on, for the message after Ctrl-C.
SYNTHCAP_COMMAND="bash$(printf ' %q' "$typed" "$@")"
export SYNTHCAP_COMMAND
given=("${@:1:${#inputs[@]}}")
shift ${#inputs[@]}
processes=$1
shift

if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
    echo "the number of processes (GPUs) must be a positive integer, not '$processes'" >&2
    exit 2
fi
if ! command -v python >/dev/null; then
    echo "no 'python' on PATH: activate the environment that synthcap_mm is installed in" >&2
    exit 2
fi

nodes=${NNODES:-1}
if [ "$nodes" -gt 1 ]; then
    : "${MASTER_ADDR:?"NNODES=$nodes needs MASTER_ADDR, the address of the machine with NODE_RANK=0"}"
    : "${NODE_RANK:?"NNODES=$nodes needs NODE_RANK, this machine's number from 0 to $((nodes - 1))"}"
    rendezvous=(--nnodes="$nodes" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${PORT:-29500}")
elif [ -n "${PORT:-}" ]; then
    rendezvous=(--nnodes=1 --node_rank=0 --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$PORT")
else
    # The address by number: a container's own host name often does not resolve.
    rendezvous=(--standalone --local_addr=127.0.0.1)
fi

# torch's launcher would give every process a single thread; share the cores out instead.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS=$((cores > processes ? cores / processes : 1))
fi
# A checkout is used as it is, installed or not.
if [ -f "$root/synthcap_mm/__init__.py" ]; then
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
fi

# torch.distributed.run, with a quiet end after Ctrl-C.
exec python -m synthcap_mm.apis.run_ranks "${rendezvous[@]}" --nproc_per_node="$processes" \
    "$tools/$script" --launcher pytorch "${given[@]}" "$@"
