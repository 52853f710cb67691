"""A finished store of random features, written without an encoder or a generator."""

import numpy as np

from synthcap_mm.store import StoreWriter
from synthcap_mm.store.schema import captions_table, images_table, pairs_table
from synthcap_mm.structures import Tag


def unit(features):
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def make_store(path, captions=120, images=None, k=1, dim=16, shard=32, seed=0, flagged=(), heldout=(), texts=None,
               pairs=None, text_features=None, refine=None, tags=None):  # fmt: skip
    """Caption i has the images ``k*i .. k*i+k-1``, unless ``pairs`` (caption, image rows) says otherwise."""
    rng = np.random.default_rng(seed)
    images = captions * k if images is None else images
    text = unit(rng.standard_normal((captions, dim)) if text_features is None else text_features)
    image = unit(rng.standard_normal((images, dim)) + (0.8 * np.repeat(text, k, 0) if images == captions * k else 0))
    if pairs is None:
        pairs = [(i, k * i + j) for i in range(captions) for j in range(k)]
    pairs = np.array(pairs)
    texts = texts or [f"caption number {i}" for i in range(captions)]
    probe = [1.0] + [0.0] * (dim - 1)
    header = {"kind": "pairs", "embed_dim": dim, "encoder": {"name": "random", "image": probe, "text": probe},
              "seed": 0, "shard_size": shard, "refine": refine}  # fmt: skip
    writer = StoreWriter(path, header)
    writer.begin("then", "0")
    shards = -(-captions // shard)
    for i in range(shards):
        span = range(i * shard, min((i + 1) * shard, captions))
        rows = slice(span.start, span.stop)
        writer.write("captions", i, captions_table([f"c{r}" for r in span], texts[rows], [f"g{r}" for r in span],
                                                   [r in heldout for r in span], text[rows]))  # fmt: skip
        mine = pairs[(pairs[:, 0] >= span.start) & (pairs[:, 0] < span.stop)]
        score = (text[mine[:, 0]] * image[mine[:, 1]]).sum(1)
        writer.write("pairs/default", i, pairs_table(mine[:, 0], mine[:, 1], 1000 + mine[:, 1], score))
    image_shards = -(-images // shard)
    for i in range(image_shards):
        span = range(i * shard, min((i + 1) * shard, images))
        found = [tags[r] if tags else [Tag("dog", 0.9, None, 0.5)] for r in span]
        flags = [["black"] if r in flagged else [] for r in span]
        writer.write(
            "images", i, images_table([f"c{r // k}/{r % k}" for r in span], image[span.start : span.stop], found, flags)
        )
    writer.finish({"captions": shards, "images": image_shards, "pairs/default": shards})
    return str(path)
