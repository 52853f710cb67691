#!/usr/bin/env bash
# Usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]; see torchrun.sh.
exec bash "$(dirname "$0")/torchrun.sh" test.py "$0" "CONFIG CHECKPOINT" "$@"
