#!/usr/bin/env bash
# Usage: [GPUS=8] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [flags of tools/train.py]
# Trains on Slurm. Environment: GPUS (all of the job, default 8)  GPUS_PER_NODE (default the smaller of GPUS and 8)
#   CPUS_PER_TASK (default 5)  SRUN_ARGS (more arguments of srun)  PORT (default a random one)
# The command line is tested with a stand-in for srun; it has not been run on a Slurm cluster.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8] bash $0 PARTITION JOB_NAME CONFIG [WORK_DIR] [flags of tools/train.py]" >&2
    exit 2
fi
tools=$(dirname "$0")
# The command to go on with, for the message after Ctrl-C.
SYNTHCAP_COMMAND="bash$(printf ' %q' "$0" "$@")"
partition=$1 job=$2
# OpenMMLab's form: a fourth argument that is no flag is the folder for the results.
if [ $# -gt 3 ] && [[ $4 != -* ]]; then
    set -- "${@:1:3}" --work-dir "${@:4}"
fi
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# MMEngine would take 29500 for every job; two on one machine would clash.
export SYNTHCAP_COMMAND MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))}

# SRUN_ARGS holds several arguments, so it is split at its spaces.
# shellcheck disable=SC2086
exec srun --partition="$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$tools/train.py" --launcher slurm "${@:3}"
