"""The benchmark of curation runs, in small."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_random_features(tmp_path):
    command = [
        sys.executable,
        "benchmarks/curation.py",
        "--rows",
        "1000",
        "2000",
        "--dim",
        "16",
        "--work-dir",
        tmp_path,
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"1,000 +exact +[\d.]+ +[\d.]+ +[\d.]+ +0\.900", done.stdout)
    assert not list(tmp_path.iterdir())
