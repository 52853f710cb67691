"""List, check and clean a store: python tools/store.py FOLDER."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # in a clone its own package, installed or not

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main(["store", *sys.argv[1:]]))
