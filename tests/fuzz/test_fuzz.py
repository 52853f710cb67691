"""Damaged and hostile inputs: nothing is executed, nothing outside is touched, nothing is taken though it is damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from .kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*kinds, count):
    """Run the program, in a process of its own: it changes limits and constants, and forks."""
    command = [sys.executable, "-m", "tests.fuzz", "--kind", *kinds, "--count", str(count), "--seed", "0"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines() if line.strip()}
    for kind in kinds:
        tried, refused = rows[kind][:2]
        assert int(tried) == count and int(refused) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_300_inputs_of_each_kind(kind):
    fuzz(kind, count=300)


def test_a_few_inputs_of_the_kinds_that_are_made_quickly():
    fuzz("captions", "predictions", "images", "http", count=20)
