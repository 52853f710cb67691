#!/usr/bin/env bash
# Usage: [TASKS=64] bash tools/slurm_synthesize.sh PARTITION JOB_NAME CONFIG [flags of tools/synthesize.py]
# Makes the store on Slurm: an array of TASKS jobs for the captions, another for the pictures (both of one GPU), and one
# job for the rest, which also makes what a failed task left. No job waits for another while it runs, and each may be run again.
# Environment: TASKS (default 8)  CPUS_PER_TASK (default 5)  SBATCH_ARGS (more arguments of sbatch)
# The command lines are tested with a stand-in for sbatch; it has not been run on a Slurm cluster.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [TASKS=8] bash $0 PARTITION JOB_NAME CONFIG [flags of tools/synthesize.py]" >&2
    exit 2
fi
partition=$1 job=$2
shift 2
n=${TASKS:-8}
typed="python -u$(printf ' %q' "$(dirname "$0")/synthesize.py" "$@")"
task=" --task \$SLURM_ARRAY_TASK_ID/$n"

submit() { # NAME COMMAND [arguments of sbatch]; prints the job's number
    # SBATCH_ARGS holds several arguments, so it is split at its spaces.
    # shellcheck disable=SC2086
    sbatch --parsable --partition="$partition" --job-name="$job-$1" --gres=gpu:1 \
        --cpus-per-task="${CPUS_PER_TASK:-5}" ${SBATCH_ARGS:-} "${@:3}" --wrap "$2"
}

texts=$(submit text "$typed --only text$task" --array="0-$((n - 1))")
images=$(submit images "$typed --only images$task" --array="0-$((n - 1))" --dependency="afterany:${texts%%;*}")
rest=$(submit rest "$typed" --dependency="afterany:${images%%;*}")
echo "submitted: captions $texts, pictures $images, the rest $rest"
