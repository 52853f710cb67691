#!/usr/bin/env bash
# Usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] [flags of tools/train.py]
# Trains on Slurm. Environment: see slurm.sh. It has not been run on a Slurm cluster.
set -euo pipefail

# OpenMMLab's form: a fourth argument that is no flag is the folder for the results.
if [ $# -gt 3 ] && [[ $4 != -* ]]; then
    set -- "${@:1:3}" --work-dir "${@:4}"
fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/slurm.sh" train.py "$0" "$@"
