"""Captions to train on, from the data root.

Left out are the captions of every photo that is evaluated on or lies in the
retrieval pool: the encoder's heads were trained on the pool's photos *with their
captions* (the data root's README). COCO and Flickr8k both come from Flickr, so a
photo is also recognised by its Flickr number across the two.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from synthcap_mm.files import write_json

#: Where things lie below the data root.
LAYOUT = {
    "coco": "captions/coco_captions_val2017.json",
    "flickr": "captions/flickr8k_captions.csv",
    "coco_eval": "coco_mini/annotations/captions_val2017.json",
    "coco_pool": "coco_mini/annotations/captions_train2017.json",
    "extra_pool": "coco_val2017_extra",
    "flickr_splits": "flickr8k/splits.json",
}
#: Shorter captions ('A', 'dogs racing') are left out.
MIN_WORDS = 3


def clean(text: str) -> str:
    """One line, without the full stop at the end that half of the captions have."""
    return " ".join(text.split()).rstrip(" .")


def flickr_number(name: str) -> str:
    """A Flickr photo's number, from a file name or an address that ends in ``number_secret[_z].jpg``."""
    match = re.search(r"(\d+)_[0-9a-f]+(?:_\w)?\.jpg$", name)
    return match.group(1) if match else ""


def training_captions(data_root: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The captions to train on.

    Args:
        data_root: the folder of real data.

    Returns:
        A list of ``{'id', 'caption', 'group'}``, and counts of what was left out and why.

    Raises:
        FileNotFoundError: if parts of the data root are missing; all are named.
    """
    paths = {name: data_root / path for name, path in LAYOUT.items()}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{data_root} is not a root of real data; it lacks: {', '.join(missing)}")
    coco = json.loads(paths["coco"].read_text(encoding="utf-8"))
    named = [json.loads(paths[n].read_text(encoding="utf-8"))["images"] for n in ("coco_eval", "coco_pool")]
    splits = json.loads(paths["flickr_splits"].read_text(encoding="utf-8"))

    coco_names = {image["file_name"] for images in named for image in images}
    coco_names |= {path.name for path in paths["extra_pool"].glob("*.jpg")}
    flickr_names = {name for names in splits.values() for name in names}
    numbers = {flickr_number(name) for name in flickr_names}
    numbers |= {flickr_number(i["flickr_url"]) for images in (*named, coco["images"]) for i in images
                if i["file_name"] in coco_names}  # fmt: skip
    numbers.discard("")

    captions: list[dict[str, str]] = []
    counts = {"named": 0, "same_flickr_photo": 0, "too_short": 0}
    groups: dict[str, set[str]] = {"coco": set(), "flickr": set()}

    def add(source: str, number: str, image: str, is_named: bool, id_: str, text: str) -> None:
        text = clean(text)
        if is_named:
            counts["named"] += 1
        elif number in numbers:
            counts["same_flickr_photo"] += 1
        elif len(text.split()) < MIN_WORDS:
            counts["too_short"] += 1
        else:
            groups[source].add(image)
            captions.append({"id": id_, "caption": text, "group": f"{source}/{image}"})

    images = {image["id"]: image for image in coco["images"]}
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        name = image["file_name"]
        add("coco", flickr_number(image["flickr_url"]), name, name in coco_names,
            f"coco/{annotation['id']}", annotation["caption"])  # fmt: skip
    with open(paths["flickr"], newline="", encoding="utf-8") as file:
        for n, row in enumerate(csv.DictReader(file)):
            name = row["image"]
            add("flickr", flickr_number(name), name, name in flickr_names, f"flickr/{name}#{n}", row["caption"])
    report = {
        "captions": len(captions),
        "photos": {name: len(found) for name, found in groups.items()},
        "captions_left_out": counts,
    }
    return captions, report


def prepare(data_root: Path, work_dir: Path) -> dict[str, Any]:
    """Write ``captions.json`` and ``prepared.json`` (what was left out) into the work folder, unless they are there.

    Args:
        data_root: the folder of real data.
        work_dir: the folder to write into; made if it is not there.

    Returns:
        What ``prepared.json`` holds.

    Raises:
        FileNotFoundError: see :func:`training_captions`.
    """
    captions, report = work_dir / "captions.json", work_dir / "prepared.json"
    if not captions.is_file():
        found, counts = training_captions(data_root)
        work_dir.mkdir(parents=True, exist_ok=True)
        write_json(report, counts)
        write_json(captions, found)  # last: it says that both are there
    return json.loads(report.read_text(encoding="utf-8"))
