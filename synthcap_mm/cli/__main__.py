"""``python -m synthcap_mm.cli COMMAND``."""

import sys

from synthcap_mm.cli import main

if __name__ == "__main__":
    sys.exit(main())
