"""Test a captioner on several test sets, one table: python tools/test_many.py CONFIG CHECKPOINT."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # in a clone its own package, installed or not

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main(["test-many", *sys.argv[1:]]))
