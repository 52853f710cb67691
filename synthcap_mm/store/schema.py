"""The columns of a store's tables.

==============  ==================================================================================
table           columns
==============  ==================================================================================
texts           id, text, group: captions, or the references of a test set's photos
text_features   feature, of each row of texts
heldout         heldout: whether a caption is kept out of training and memory; one shard
images          key, and the domain of a test set that has domains
image_features  feature, flags (``black``, ``uniform``, ``undecodable``, ``non_finite``)
tags            tags: a list of name, score, box, area
pictures        offset, size of the pictures in the tar beside each shard, where pictures are kept
pairs           caption (row), image (row), seed, score (cosine of the two features)
refined         feature: the optimised pseudo feature of each row of a pairs table
tokenizer       no Arrow: a ``tokenizer.json``
==============  ==================================================================================

Of encoders beside the store's own there are more tables of features, ``text_features/NAME`` and
``image_features/NAME``.

Rows are numbered over the shards of a table in their order. Features are float16, L2-normalised before rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from synthcap_mm.structures import Tag

_TAG = pa.struct(
    [("name", pa.string()), ("score", pa.float32()), ("box", pa.list_(pa.float32())), ("area", pa.float32())]
)
_FEATURE = pa.list_(pa.float16())  # of a fixed size, the encoder's width
#: Columns of the tables that are Arrow files, by the part of a table's name before the slash.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "texts": {"id": pa.string(), "text": pa.string(), "group": pa.string()},
    "text_features": {"feature": _FEATURE},
    "heldout": {"heldout": pa.bool_()},
    "images": {"key": pa.string(), "domain": pa.string()},
    "image_features": {"feature": _FEATURE, "flags": pa.list_(pa.string())},
    "tags": {"tags": pa.list_(_TAG)},
    "pictures": {"offset": pa.int64(), "size": pa.int64()},
    "pairs": {"caption": pa.int64(), "image": pa.int64(), "seed": pa.int64(), "score": pa.float32()},
    "refined": {"feature": _FEATURE},
}
#: Columns and fields that may have no value.
NULLABLE = ("group", "domain", "box")


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
    return pa.array(rows, pa.list_(_TAG))


def tags_from_arrow(rows: list[dict] | None) -> list[Tag]:
    """The detections of one image."""
    return [Tag(r["name"], r["score"], None if r["box"] is None else tuple(r["box"]), r["area"]) for r in rows or []]


def texts_rows(ids: Sequence[str], texts: Sequence[str], groups: Sequence[str | None]) -> pa.Table:
    """Rows of a texts table."""
    columns = {"id": ids, "text": texts, "group": groups}
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})


def feature_rows(features: np.ndarray) -> pa.Table:
    """Rows of a table of features only: text_features, refined."""
    return pa.table({"feature": features_to_arrow(features)})


def heldout_rows(heldout: np.ndarray) -> pa.Table:
    """Rows of a heldout table."""
    return pa.table({"heldout": pa.array(np.asarray(heldout, bool))})


def image_rows(keys: Sequence[str], domains: Sequence[str | None]) -> pa.Table:
    """Rows of an images table."""
    columns = {"key": keys, "domain": domains}
    return pa.table({name: pa.array(list(values), pa.string()) for name, values in columns.items()})


def image_feature_rows(features: np.ndarray, flags: Sequence[Sequence[str]]) -> pa.Table:
    """Rows of an image_features table."""
    flags = pa.array([list(found) for found in flags], pa.list_(pa.string()))
    return pa.table({"feature": features_to_arrow(features), "flags": flags})


def tag_rows(tags: Sequence[Sequence[Tag]]) -> pa.Table:
    """Rows of a tags table."""
    return pa.table({"tags": tags_to_arrow(tags)})


def picture_rows(places: Sequence[tuple[int, int]]) -> pa.Table:
    """Rows of a pictures table."""
    offsets, sizes = zip(*places) if places else ((), ())
    return pa.table({"offset": pa.array(offsets, pa.int64()), "size": pa.array(sizes, pa.int64())})


def pair_rows(captions: np.ndarray, images: np.ndarray, seeds: np.ndarray, scores: np.ndarray) -> pa.Table:
    """Rows of a pairs table."""
    return pa.table(
        {
            "caption": pa.array(captions, pa.int64()),
            "image": pa.array(images, pa.int64()),
            "seed": pa.array(seeds, pa.int64()),
            "score": pa.array(scores, pa.float32()),
        }
    )
