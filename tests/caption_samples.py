"""Captions as their datasets give them, in small, and a way to write them."""

import json

COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog\nruns. "},
        {"id": 2, "image_id": 8, "caption": "Two cats"},
        {"id": 3, "image_id": 7, "caption": "A brown dog"},
    ],
}
KARPATHY = {
    "images": [
        {
            "imgid": n,
            "filename": f"{n}.jpg",
            "filepath": "val2014",
            "split": split,
            "sentences": [{"raw": f"picture {n}", "sentid": 10 * n}, {"raw": f"image {n}", "sentid": 10 * n + 1}],
        }
        for n, split in enumerate(["train", "restval", "val", "test"])
    ],
    "dataset": "coco",
}


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path
