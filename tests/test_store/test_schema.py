"""Columns of the tables."""

import numpy as np
import pyarrow as pa

from synthcap_mm.store import schema
from synthcap_mm.structures import Tag


def test_tags_come_back_as_they_were_stored():
    tags = [[Tag("dog", 0.75, (1.0, 2.0, 3.5, 4.0), 0.5), Tag("beach", 0.25, None, 1.0)], []]
    column = schema.tags_to_arrow(tags)
    assert [schema.tags_from_arrow(row) for row in column.to_pylist()] == tags
    assert schema.tags_from_arrow(None) == []


def test_features_are_rounded_to_float16_and_nothing_else():
    features = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    column = schema.features_to_arrow(features[:, ::-1])  # not contiguous
    assert column.type == pa.list_(pa.float16(), 7)
    np.testing.assert_array_equal(column.flatten().to_numpy().reshape(5, 7), features[:, ::-1].astype(np.float16))


def test_columns_are_those_that_the_module_documents():
    feature, one = np.ones((1, 2), np.float32), np.zeros(1, np.int64)
    tables = {
        "texts": schema.texts_rows(["a"], ["b"], [None]),
        "text_features": schema.feature_rows(feature),
        "heldout": schema.heldout_rows(one),
        "images": schema.image_rows(["a"], [None]),
        "image_features": schema.image_feature_rows(feature, [["black"]]),
        "tags": schema.tag_rows([[]]),
        "pictures": schema.picture_rows([(512, 9)]),
        "pairs": schema.pair_rows(one, one, np.array([2**31 - 1]), np.array([0.5])),
    }
    for name, table in tables.items():
        line = next(row for row in schema.__doc__.splitlines() if row.startswith(f"{name} "))
        assert all(column in line for column in table.column_names)
    assert tables["pairs"].to_pylist() == [{"caption": 0, "image": 0, "seed": 2**31 - 1, "score": 0.5}]
    assert schema.picture_rows([]).num_rows == 0
