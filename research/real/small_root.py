"""A small data root, to see in minutes that everything runs: python -m research.real.small_root DATA_ROOT SMALL_ROOT.

It has the layout of the data root, with the captions of 200 photos to train on, a pool of 30 images and 12 photos to
evaluate on; images and weights are links. Figures of it mean nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from research.real.prepare import LAYOUT
from synthcap_mm.files import write_json

#: Photos whose captions are trained on, of each source.
TRAIN = 100
#: Photos of each evaluation set.
EVALUATED = 6
#: Images of each source of the pool but Flickr8k, which has three times as many; more than images_per_caption in all.
POOL = 5


def _link(names: Iterable[str], source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).symlink_to(source / name)


def make_small_root(root: Path, small: Path) -> None:
    """Make it.

    Args:
        root: the folder of real data.
        small: the folder to make.

    Raises:
        FileExistsError: if there is something already.
    """
    root = root.resolve()
    small.mkdir(parents=True)
    (small / "captions").mkdir()
    splits = json.loads((root / LAYOUT["flickr_splits"]).read_text(encoding="utf-8"))
    chosen = {"unlabelled": splits["unlabelled"][: 3 * POOL], "dev": splits["dev"][:EVALUATED]}
    coco = {name: json.loads((root / LAYOUT[name]).read_text(encoding="utf-8"))
            for name in ("coco", "coco_eval", "coco_pool")}  # fmt: skip
    extra = sorted(path.name for path in (root / LAYOUT["extra_pool"]).glob("*.jpg"))
    named = {image["file_name"] for name in ("coco_eval", "coco_pool") for image in coco[name]["images"]} | {*extra}
    trained = [image["file_name"] for image in coco["coco"]["images"] if image["file_name"] not in named][:TRAIN]
    kept = {
        "coco_eval": {image["file_name"] for image in coco["coco_eval"]["images"][:EVALUATED]},
        "coco_pool": {image["file_name"] for image in coco["coco_pool"]["images"][:POOL]},
    }
    kept["coco"] = {*trained, *extra[:POOL], *kept["coco_eval"]}
    for name, found in coco.items():
        images = [image for image in found["images"] if image["file_name"] in kept[name]]
        ids = {image["id"] for image in images}
        captions = [caption for caption in found["annotations"] if caption["image_id"] in ids]
        (small / LAYOUT[name]).parent.mkdir(parents=True, exist_ok=True)
        write_json(small / LAYOUT[name], {**found, "images": images, "annotations": captions})
    _link(kept["coco_eval"], root / "coco_mini/val2017", small / "coco_mini/val2017")
    _link(kept["coco_pool"], root / "coco_mini/train2017", small / "coco_mini/train2017")
    _link(extra[:POOL], root / LAYOUT["extra_pool"], small / LAYOUT["extra_pool"])
    drawn = sorted(path.name for path in (root / "sd_drawbench").glob("*.jpg"))
    _link(drawn[:POOL], root / "sd_drawbench", small / "sd_drawbench")
    _link([*chosen["unlabelled"], *chosen["dev"]], root / "flickr8k/images", small / "flickr8k/images")
    write_json(small / LAYOUT["flickr_splits"], chosen)
    with open(root / LAYOUT["flickr"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    others = dict.fromkeys(row["image"] for row in rows if row["image"] not in {*splits["unlabelled"], *splits["dev"]})
    names = {*list(others)[:TRAIN], *chosen["unlabelled"], *chosen["dev"]}
    with open(small / LAYOUT["flickr"], "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", "caption"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if row["image"] in names)
    _link(["dual_encoder", "yolox_nano"], root, small)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, help="folder of real data")
    parser.add_argument("small_root", type=Path, help="folder to make")
    args = parser.parse_args(argv)
    make_small_root(args.data_root, args.small_root)


if __name__ == "__main__":
    main()
