"""A store of random features in the real format, of any size, for the benchmarks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from synthcap_mm.store import Table
from synthcap_mm.store.checking import KEY, view_sha256
from synthcap_mm.store.recipes import digest
from synthcap_mm.store.schema import (
    feature_rows,
    heldout_rows,
    image_feature_rows,
    image_rows,
    pair_rows,
    tag_rows,
    texts_rows,
)
from synthcap_mm.store.store import write_view
from synthcap_mm.store.tables import facts_of
from synthcap_mm.structures import Tag
from synthcap_mm.tokenization import make_tokenizer

WORDS = [
    "a",
    "man",
    "woman",
    "dog",
    "cat",
    "on",
    "the",
    "with",
    "of",
    "red",
    "blue",
    "white",
    "standing",
    "sitting",
    "street",
    "beach",
    "table",
    "next",
    "to",
    "large",
    "small",
]
TAGS = [Tag(name, 0.7, (0.0, 0.0, 50.0, 50.0), 0.2) for name in ("dog", "person", "chair", "car", "cup", "bench")]


def make_random_store(
    path: Path, size: int, dim: int = 512, shard: int = 10_000, heldout_every: int | None = None
) -> Path:
    """Captions, images, tags and pairs of random features.

    Args:
        path: folder of the store.
        size: captions and images.
        dim: width of the features.
        shard: rows of a shard.
        heldout_every: one caption of so many is held out. Default: none.
    """
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 11)) for _ in range(1000)]
    keys = [str(i) for i in range(-(-size // shard))]
    names = ("texts", "text_features", "images", "image_features", "tags", "pairs/default")
    tables = {name: Table(path, name.partition("/")[0], {"seed": 0}, keys) for name in names}
    for number in range(len(keys)):
        rows = np.arange(number * shard, min((number + 1) * shard, size))
        features = rng.standard_normal((len(rows), dim), dtype=np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        ids = [str(row) for row in rows]
        tables["texts"].write(number, texts_rows(ids, [texts[row % 1000] for row in rows], ids))
        tables["text_features"].write(number, feature_rows(features))
        tables["images"].write(number, image_rows(ids, [None] * len(rows)))
        tables["image_features"].write(number, image_feature_rows(features[::-1], [[]] * len(rows)))
        tables["tags"].write(number, tag_rows([TAGS] * len(rows)))
        tables["pairs/default"].write(number, pair_rows(rows, rows, rows, np.zeros(len(rows))))
    heldout = np.zeros(size, bool)
    if heldout_every:
        heldout[::heldout_every] = True
    tables["heldout"] = Table(path, "heldout", {}, ["0"])
    tables["heldout"].write(0, heldout_rows(heldout))
    tables["tokenizer"] = Table(path, "tokenizer", {}, ["0"], suffix=".json")
    tables["tokenizer"].write_bytes(0, make_tokenizer("clip").to_str().encode())
    probe = rng.standard_normal(dim).tolist()
    write_view(path / "store.json", "pairs", tables, {"name": "random", "image": probe, "text": probe})
    return path


def multiply(path: Path, out: Path, times: int) -> Path:
    """A store of ``times`` as many shards: each is a link to one of those of ``path``, so that it takes no room."""
    view = json.loads((path / "store.json").read_text())
    for name, entry in view["tables"].items():
        folder, target = path / "tables" / entry["folder"], out / "tables" / entry["folder"]
        target.mkdir(parents=True)
        os.link(folder / "recipe.json", target / "recipe.json")
        if name in ("tokenizer", "heldout"):
            continue
        shards = []
        for place in range(times * len(entry["shards"])):
            source = entry["shards"][place % len(entry["shards"])]
            shards.append([f"{place:05d}-{place:016x}.arrow", source[1], source[2]])
            os.link(folder / source[0], target / shards[-1][0])
        entry["shards"] = shards
        entry["identity"] = digest([entry["folder"], [f"{place:016x}" for place in range(len(shards))]], KEY)
    rows = sum(shard[1] for shard in view["tables"]["texts"]["shards"])
    heldout = Table(out, "heldout", {}, ["0"])
    heldout.write(0, heldout_rows(np.zeros(rows, bool)))
    view["tables"]["heldout"]["shards"] = [[heldout.names[0], rows, facts_of(heldout.path(0))["sha256"]]]
    entry = view["tables"]["tokenizer"]
    os.link(
        path / "tables" / entry["folder"] / entry["shards"][0][0],
        out / "tables" / entry["folder"] / entry["shards"][0][0],
    )
    view["sha256"] = view_sha256(view)
    (out / "store.json").write_text(json.dumps(view))
    return out
