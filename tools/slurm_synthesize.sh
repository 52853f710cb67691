#!/usr/bin/env bash
# Usage: bash tools/slurm_synthesize.sh PARTITION JOB_NAME CONFIG [flags of tools/synthesize.py]
# Makes the store on Slurm. Environment: see slurm.sh. It has not been run on a Slurm cluster.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/slurm.sh" synthesize.py "$0" "$@"
