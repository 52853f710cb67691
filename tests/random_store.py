"""A finished store of random features, written without an encoder or a generator."""

import numpy as np

from synthcap_mm.store import Table, schema
from synthcap_mm.store.store import view_file, write_view
from synthcap_mm.store.tables import key_of
from synthcap_mm.structures import Tag


def unit(features):
    features = np.asarray(features, np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def make_store(path, captions=120, images=None, k=1, dim=16, shard=32, seed=0, flagged=(), heldout=(), texts=None,
               pairs=None, text_features=None, refine=None, tags=None, search=None):  # fmt: skip
    """Caption i has the images ``k*i .. k*i+k-1``, unless ``pairs`` (caption, image rows) says otherwise.

    ``search`` is the width of a second encoder's features, ``'search'``, which are random too.
    With ``refine`` (settings) the images' features lie beside the pairs as refined ones.
    """
    rng = np.random.default_rng(seed)
    images = captions * k if images is None else images
    text = unit(rng.standard_normal((captions, dim)) if text_features is None else text_features)
    image = unit(rng.standard_normal((images, dim)) + (0.8 * np.repeat(text, k, 0) if images == captions * k else 0))
    if pairs is None:
        pairs = [(i, k * i + j) for i in range(captions) for j in range(k)]
    pairs = np.array(pairs)
    texts = texts or [f"caption number {i}" for i in range(captions)]
    tags = tags or [[Tag("dog", 0.9, None, 0.5)]] * images
    tables = {}

    def add(name, count, rows_of, inputs=(), **recipe):
        """A table of the rows ``rows_of(span)``; its keys are hashes of them."""
        parts = [rows_of(range(a, min(a + shard, count))) for a in range(0, count, shard)]
        keys = [key_of(name, part.to_pylist() if part.num_columns else []) for part in parts]
        made = tables[name] = Table(path, name.partition("/")[0], recipe, keys, [tables[i] for i in inputs])
        for number, part in enumerate(parts):
            made.write(number, part)

    def rows_of(span):
        found = pairs[(pairs[:, 0] >= span.start) & (pairs[:, 0] < span.stop)]
        return found[:, 0], found[:, 1]

    def pairs_of(span):
        caption, picture = rows_of(span)
        return schema.pair_rows(caption, picture, 1000 + picture, (text[caption] * image[picture]).sum(1))

    names = [[f"{letter}{r}" for r in range(captions)] for letter in "cg"]
    add("texts", captions, lambda s: schema.texts_rows(*(x[s.start : s.stop] for x in (names[0], texts, names[1]))))
    add("text_features", captions, lambda s: schema.feature_rows(text[s.start : s.stop]), ["texts"])
    out = np.isin(np.arange(captions), list(heldout))
    shard_size, shard = shard, captions
    add("heldout", captions, lambda s: schema.heldout_rows(out), ["texts"])
    shard = shard_size
    add("images", images, lambda s: schema.image_rows([f"c{r // k}/{r % k}" for r in s], [None] * len(s)))
    flags = [["black"] if r in flagged else [] for r in range(images)]
    add("image_features", images, lambda s: schema.image_feature_rows(image[s.start : s.stop], flags[s.start : s.stop]))
    if search is not None:
        found = np.random.default_rng(seed + 1)
        texts_by, images_by = (unit(found.standard_normal((count, search))) for count in (captions, images))
        add("text_features/search", captions, lambda s: schema.feature_rows(texts_by[s.start : s.stop]), ["texts"],
            encoder="another")  # fmt: skip
        by_image = lambda s: schema.image_feature_rows(images_by[s.start : s.stop], flags[s.start : s.stop])  # noqa: E731
        add("image_features/search", images, by_image, encoder="another")
    add("tags", images, lambda s: schema.tag_rows(tags[s.start : s.stop]))
    add("pairs/default", captions, pairs_of, ["text_features", "image_features"], seed=0)
    if refine is not None:
        refined = lambda s: schema.feature_rows(image[rows_of(s)[1]])  # noqa: E731
        add("refined/default", captions, refined, ["pairs/default", "heldout"], settings=refine)
    probe = [1.0] + [0.0] * (dim - 1)
    others = {} if search is None else {"search": {"name": "another", "image": [1.0] * search, "text": [1.0] * search}}
    write_view(view_file(path), "pairs", tables, {"name": "random", "image": probe, "text": probe}, others)
    return str(path)
