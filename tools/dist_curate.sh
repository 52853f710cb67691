#!/usr/bin/env bash
# Usage: bash tools/dist_curate.sh CONFIG GPUS [flags of tools/curate.py]; see torchrun.sh.
exec bash "$(dirname "$0")/torchrun.sh" curate.py "$0" CONFIG "$@"
