#!/usr/bin/env bash
# Usage: bash tools/dist_synthesize.sh CONFIG GPUS [flags of tools/synthesize.py]; see torchrun.sh.
exec bash "$(dirname "$0")/torchrun.sh" synthesize.py "$0" CONFIG "$@"
