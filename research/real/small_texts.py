"""Small texts of one domain, as a user would bring them: ``python -m research.real.small_texts``.

Sentences are drawn at random from the training captions of ``prepare.py``, without their photos' names: one a line.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from research.real.prepare import prepare

DOMAINS, SIZES, SEEDS = ("coco", "flickr"), (1000, 3000, 10000), (0, 1, 2)


def main() -> None:
    """Write all of them below ``SYNTHCAP_REAL_WORK/small``; a smaller one is part of a larger one."""
    data_root = Path(os.environ.get("SYNTHCAP_REAL_DATA", "../shared/real"))
    work_root = Path(os.environ.get("SYNTHCAP_REAL_WORK", "work_dirs/real"))
    prepare(data_root, work_root)
    captions = json.loads((work_root / "captions.json").read_text(encoding="utf-8"))
    folder = work_root / "small"
    folder.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        sentences = [entry["caption"] for entry in captions if entry["id"].startswith(f"{domain}/")]
        for seed in SEEDS:
            drawn = random.Random(seed).sample(sentences, max(SIZES))
            for size in SIZES:
                text = "".join(f"{sentence}\n" for sentence in drawn[:size])
                (folder / f"{domain}_{size}_{seed}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
