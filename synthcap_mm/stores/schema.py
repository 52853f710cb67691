"""The tables of a store and their columns.

============  ==========================================================================
table         columns
============  ==========================================================================
captions      id, text, group, heldout, feature (absent in a store of photos)
images        key, feature, detections, flags
pairs/NAME    caption (row), image (row), seed, score (cosine of the two features)
refined/NAME  feature: the optimised pseudo feature of each row of pairs/NAME
images_tar    no Arrow: the kept pictures of the images' rows (:mod:`~synthcap_mm.stores.tar_images`)
============  ==========================================================================

Rows are numbered over the shards of a table in their order. Features are
float16, L2-normalised before rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from synthcap_mm.structures import Tag

#: Raised by one when a store written today could not be read by yesterday's code.
SCHEMA_VERSION = 1

_DETECTION = pa.struct(
    [("name", pa.string()), ("score", pa.float32()), ("box", pa.list_(pa.float32())), ("area", pa.float32())]
)


def features_to_arrow(features: np.ndarray) -> pa.FixedSizeListArray:
    """``(N, D)`` features as a column of float16 lists."""
    features = np.ascontiguousarray(features, dtype=np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])


def tags_to_arrow(tags: Sequence[Sequence[Tag]]) -> pa.Array:
    """Detections of N images as a column of lists of structs."""
    rows = [
        [
            {
                "name": tag.name,
                "score": float(tag.score),
                "box": None if tag.box is None else [float(v) for v in tag.box],
                "area": float(tag.area),
            }
            for tag in image
        ]
        for image in tags
    ]
    return pa.array(rows, pa.list_(_DETECTION))


def tags_from_arrow(rows: list[dict] | None) -> list[Tag]:
    """The detections of one image."""
    return [Tag(r["name"], r["score"], None if r["box"] is None else tuple(r["box"]), r["area"]) for r in rows or []]


def captions_table(
    ids: Sequence[str],
    texts: Sequence[str],
    groups: Sequence[str | None],
    heldout: Sequence[bool],
    features: np.ndarray | None,
) -> pa.Table:
    """A shard of the captions table."""
    columns = {
        "id": pa.array(ids, pa.string()),
        "text": pa.array(texts, pa.string()),
        "group": pa.array(groups, pa.string()),
        "heldout": pa.array(heldout, pa.bool_()),
    }
    if features is not None:
        columns["feature"] = features_to_arrow(features)
    return pa.table(columns)


def images_table(
    keys: Sequence[str], features: np.ndarray, tags: Sequence[Sequence[Tag]], flags: Sequence[Sequence[str]]
) -> pa.Table:
    """A shard of the images table."""
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "feature": features_to_arrow(features),
            "detections": tags_to_arrow(tags),
            "flags": pa.array([list(f) for f in flags], pa.list_(pa.string())),
        }
    )


def pairs_table(captions: np.ndarray, images: np.ndarray, seeds: np.ndarray, scores: np.ndarray) -> pa.Table:
    """A shard of a pairs table."""
    return pa.table(
        {
            "caption": pa.array(captions, pa.int64()),
            "image": pa.array(images, pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
            "score": pa.array(scores, pa.float32()),
        }
    )


def refined_table(features: np.ndarray) -> pa.Table:
    """A shard of refined features."""
    return pa.table({"feature": features_to_arrow(features)})
