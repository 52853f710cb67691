"""Settings of a small store of pairs."""

#: A second encoder, of another width.
SEARCH = {"search": {"type": "TinyEncoder", "dim": 24, "seed": 7, "name": "other"}}


def tiny_settings(store):
    """Settings of a small store of pairs: 40 captions in 20 groups, shards of 16."""
    return {
        "store": str(store),
        "captions": {"type": "TinyCaptions", "num": 40},
        "encoder": {"type": "TinyEncoder"},
        "generator": {"type": "TinyPainter"},
        "tag_provider": {"type": "TinyTagger"},
        "refine": {"steps": 3, "lr": 0.01, "bank_size": 16},
        "tokenizer": {"kind": "train", "vocab_size": 300},
        "holdout": 0.1,
        "shard_size": 16,
        "image_batch": 5,
    }
