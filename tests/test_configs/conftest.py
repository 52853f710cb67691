"""Stores for shipped configs."""

import pytest


@pytest.fixture(scope="session")
def stores(tmp_path_factory, tiny):
    """Width, and names of further encoders → paths of a store of pairs and one of photos."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.synthesis.photos import PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    made = {}

    def make(width, others=()):
        if (width, others) not in made:
            init_default_scope("synthcap_mm")
            root = tmp_path_factory.mktemp(f"width{width}")
            encoder, tagger = {"type": "TinyEncoder", "dim": width}, {"type": "TinyTagger"}
            more = {name: {"type": "TinyEncoder", "dim": 24, "seed": 7} for name in others}
            Synthesis(
                store=str(root / "pairs"), captions={"type": "TinyCaptions", "num": 60}, encoder=encoder,
                generator={"type": "TinyPainter"}, tag_provider=tagger, refine={"steps": 2, "lr": 0.01, "bank_size": 16},
                tokenizer={"kind": "train", "vocab_size": 300}, holdout=0.2, image_batch=32, other_encoders=more,
            ).run()  # fmt: skip
            PhotoStore(str(root / "photos"), {"type": "TinyPhotos"}, encoder, tagger, other_encoders=more).run()
            made[width, others] = (str(root / "pairs"), str(root / "photos"))
        return made[width, others]

    return make
