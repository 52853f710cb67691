"""Columns of the tables."""

import numpy as np
import pyarrow as pa
import pytest

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
    back = column.flatten().to_numpy().reshape(5, 7)
    np.testing.assert_array_equal(back, features[:, ::-1].astype(np.float16))


def test_captions_without_features_have_no_feature_column():
    table = schema.captions_table(["a"], ["a dog"], [None], [False], None)
    assert table.column_names == ["id", "text", "group", "heldout"]
    assert table.to_pylist() == [{"id": "a", "text": "a dog", "group": None, "heldout": False}]


def test_columns_are_those_that_the_module_documents():
    feature = np.ones((1, 2), np.float32)
    one = np.zeros(1, np.int64)
    tables = {
        "captions": schema.captions_table(["a"], ["b"], ["c"], [True], feature),
        "images": schema.images_table(["a"], feature, [[]], [["black"]]),
        "pairs": schema.pairs_table(one, one, one, one),
    }
    for name, table in tables.items():
        line = next(row for row in schema.__doc__.splitlines() if row.startswith(name))
        for column in table.column_names:
            assert column in line
    assert schema.refined_table(feature).column_names == ["feature"]


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_pairs_keep_seeds_of_31_bits(seed):
    table = schema.pairs_table(np.array([3]), np.array([4]), np.array([seed]), np.array([0.5]))
    assert table.to_pylist() == [{"caption": 3, "image": 4, "seed": seed, "score": 0.5}]
