"""Caption photos: python tools/caption.py CONFIG_OR_EXPORT [CHECKPOINT] INPUTS --out captions.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # in a clone its own package, installed or not

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
