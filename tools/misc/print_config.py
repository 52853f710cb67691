"""Print a config with its bases merged and its options applied: python tools/misc/print_config.py CONFIG."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # in a clone its own package, installed or not

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main(["print-config", *sys.argv[1:]]))
