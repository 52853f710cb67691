#!/usr/bin/env bash
# Usage: bash benchmarks/kill_synthesize.sh [--runs 20] [--captions 512] [--seed 0] [--folder FOLDER]
# Kills tools/synthesize.py with SIGKILL at random moments, on 1 and on 2 ranks, finishes each run, and compares its
# store with an uninterrupted one, byte by byte. On the mini-world, without a GPU; minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" CUDA_VISIBLE_DEVICES=-1
exec python "$here/kill_synthesize.py" "$@"
