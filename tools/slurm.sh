#!/usr/bin/env bash
# Usage: bash tools/slurm.sh SCRIPT TYPED PARTITION JOB_NAME CONFIG [flags of tools/SCRIPT]
# What the slurm_*.sh scripts share: tools/SCRIPT on Slurm. TYPED is the script that one typed.
# Environment: GPUS (all of the job, default 8)  GPUS_PER_NODE (default the smaller of GPUS and 8)
#   CPUS_PER_TASK (default 5)  SRUN_ARGS (more arguments of srun)  PORT (default a random one)
# The command line is tested with a stand-in for srun; it has not been run on a Slurm cluster.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$tools")
script=$1
typed=$2
shift 2
if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8] bash $typed PARTITION JOB_NAME CONFIG [flags of tools/$script]" >&2
    exit 2
fi
# What to type to go on, for the message after Ctrl-C.
SYNTHCAP_COMMAND="bash$(printf ' %q' "$typed" "$@")"
export SYNTHCAP_COMMAND
partition=$1
job=$2
shift 2

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# MMEngine would take 29500 for every job; two on one machine would clash.
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))}
if [ -f "$root/synthcap_mm/__init__.py" ]; then
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
fi

# SRUN_ARGS holds several arguments, so it is split at its spaces.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$tools/$script" --launcher slurm "$@"
