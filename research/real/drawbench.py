"""What the factory made of 400 real Stable Diffusion images: figures, a sheet to look at, a table of ten.

Run tools/synthesize.py on research/real/configs/drawbench.py first; see there.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from synthcap_mm.datasets.captions import CaptionFile
from synthcap_mm.store import Store


def read_pairs(store: Store, metadata: Path) -> list[dict[str, Any]]:
    """Prompt, file, tags, flags and score of each pair, in the order of the metadata."""
    files = {caption.id: caption.group for caption in CaptionFile(metadata).read()}
    table = store.pairs()
    rows = []
    for caption, image, score in zip(table.numbers("caption"), table.numbers("image"), table.numbers("score")):
        rows.append(
            {
                "prompt": store.captions.value("text", int(caption)),
                "file": files[store.captions.value("id", int(caption))],
                "tags": store.tags(int(image)),
                "flags": store.images.value("flags", int(image)) or [],
                "score": float(score),
            }
        )
    return rows


def say_tags(tags: list[Any], min_score: float = 0.3) -> str:
    """``'dog 0.81, car 0.40'``, or a dash."""
    return ", ".join(f"{tag.name} {tag.score:.2f}" for tag in tags if tag.score > min_score) or "-"


def summary(rows: list[dict[str, Any]], min_score: float = 0.3) -> list[str]:
    """Figures over all pairs."""
    scores = np.array([row["score"] for row in rows])
    names = Counter(name for row in rows for name in {tag.name for tag in row["tags"] if tag.score > min_score})
    without = sum(not any(tag.score > min_score for tag in row["tags"]) for row in rows)
    order = scores.argsort()[::-1]
    return [
        f"{len(rows)} pairs; flagged: " + (", ".join(row["file"] for row in rows if row["flags"]) or "none"),
        f"score: mean {scores.mean():.3f}, deviation {scores.std():.3f}, quantiles 5/50/95 % "
        + "/".join(f"{q:.3f}" for q in np.quantile(scores, (0.05, 0.5, 0.95))),
        "highest: " + ", ".join(f"{rows[i]['file']} {scores[i]:.2f}" for i in order[:5]),
        "lowest: " + ", ".join(f"{rows[i]['file']} {scores[i]:.2f}" for i in order[-5:]),
        f"without a tag above {min_score}: {without}; most frequent: "
        + ", ".join(f"{name} {count}" for name, count in names.most_common(12)),
    ]


def draw_sheet(rows: list[dict[str, Any]], root: Path, columns: int = 10, width: int = 190) -> Image.Image:
    """Images with prompt, tags and score below, and the boxes of the tags."""
    height = width + 62
    sheet = Image.new("RGB", (columns * width, -(-len(rows) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        x, y = number % columns * width, number // columns * height
        with Image.open(root / row["file"]) as opened:
            image = opened.convert("RGB")
        boxes = ImageDraw.Draw(image)
        for tag in row["tags"]:
            if tag.score > 0.3:
                boxes.rectangle(tag.box, outline="red", width=4)
        sheet.paste(image.resize((width - 6, width - 6)), (x, y))
        words = f"{row['file'].removesuffix('.jpg')} {row['score']:.2f} {' '.join(row['flags'])} | {row['prompt']}"
        text = [words[i : i + 30] for i in range(0, min(len(words), 90), 30)] + [say_tags(row["tags"])[:30]]
        for line, part in enumerate(text):
            pen.text((x + 2, y + width - 5 + 14 * line), part, fill="black" if part != text[-1] else "red")
    return sheet


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Print the figures and the table, and write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", default=os.environ.get("SYNTHCAP_REAL_DATA", "../shared/real"), type=Path)
    parser.add_argument("--work-dir", default=os.environ.get("SYNTHCAP_REAL_WORK", "work_dirs/real"), type=Path)
    parser.add_argument("--sheet", type=int, default=100, help="images on a sheet")
    parser.add_argument("--table", type=int, default=10, help="rows of the table, evenly spaced")
    args = parser.parse_args(arguments)
    root = args.data_root / "sd_drawbench"
    rows = read_pairs(Store.open(args.work_dir / "drawbench"), root / "metadata.jsonl")
    print("\n".join(summary(rows)))
    print("\n| image | prompt | tags above 0.3 | score |\n|---|---|---|---|")
    for i in np.linspace(0, len(rows) - 1, args.table).round().astype(int):
        row = rows[i]
        print(f"| {row['file']} | {row['prompt']} | {say_tags(row['tags'])} | {row['score']:.2f} |")
    for start in range(0, len(rows), args.sheet):
        path = args.work_dir / f"drawbench_{start // args.sheet}.png"
        draw_sheet(rows[start : start + args.sheet], root).save(path)
        print(path)
    return rows


if __name__ == "__main__":
    main()
