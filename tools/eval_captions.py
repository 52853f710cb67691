"""Score predicted captions from a file, or compare two files: python tools/eval_captions.py PRED.json REF.json."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # in a clone its own package, installed or not

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval-captions", *sys.argv[1:]]))
