"""A small captioner that can be put to use: config, checkpoint and photos."""

import copy

import pytest
import torch
from small_training import train_a_little


@pytest.fixture(scope="session")
def full_export(tmp_path_factory):
    """An export with all kinds of files: encoder, vocabulary, memory, tags by the encoder."""
    import tiny_clip
    from mmengine.registry import init_default_scope

    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.inference.export import export_captioner
    from synthcap_mm.registry import MODELS
    from synthcap_mm.synthesis.synthesis import Synthesis

    init_default_scope("synthcap_mm")
    root = tmp_path_factory.mktemp("full")
    encoder = {"type": "OpenCLIPBackbone", "quick_gelu": True, **tiny_clip.write(root / "clip")}
    tags = {"type": "CLIPTagProvider", "encoder": encoder, "vocabulary": ["dog", "cat", "red"], "min_score": 0.0}
    store = str(root / "store")
    Synthesis(
        store=store,
        captions={"type": "MiniScenesCaptions", "num": 40},
        generator={"type": "MiniScenesPainter"},
        tokenizer={"kind": "train", "vocab_size": 400},
        holdout=0.1,
        encoder=encoder,
        tag_provider=tags,
    ).run()
    model = {
        "type": "SynthCaptioner",
        "store": store,
        "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"max_tags": 2}, "max_length": 16},
        "necks": [
            {"type": "TextMemoryProjection", "temperature": 0.01},
            {"type": "PrefixProjector", "in_dim": 16, "width": 16, "prefix_length": 2, "input_scale": 4.0},
        ],
        "head": {"type": "GPT2CaptionHead", "width": 16, "layers": 1, "heads": 2, "positions": 80, "dropout": 0.0,
                 "generation": {"num_beams": 2}},
    }  # fmt: skip
    torch.manual_seed(0)
    built = MODELS.build(copy.deepcopy(model))
    train_a_little(built, SynthPairDataset(store), steps=20, lr=1e-2)
    torch.save({"state_dict": built.state_dict()}, root / "checkpoint.pth")
    synthesis = {"store": store, "encoder": encoder, "tag_provider": tags}
    export_captioner({"model": model, "synthesis": synthesis}, root / "checkpoint.pth", root / "export")
    return root / "export"


@pytest.fixture(scope="session")
def tiny_captioner(tiny_stores, tiny, tmp_path_factory):
    """Config (with dropout and a prompt of tags), path of a checkpoint, folder of photos."""
    from mmengine.registry import init_default_scope

    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.registry import MODELS

    init_default_scope("synthcap_mm")
    root = tmp_path_factory.mktemp("captioner")
    config = {
        "model": {
            "type": "SynthCaptioner",
            "store": tiny_stores[0],
            "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"min_score": 0.05}, "max_length": 16},
            "necks": [
                {"type": "TextMemoryProjection", "temperature": 0.02},
                {"type": "PrefixProjector", "in_dim": 32, "width": 32, "prefix_length": 2},
            ],
            "head": {
                "type": "GPT2CaptionHead", "width": 32, "layers": 2, "heads": 2, "positions": 80, "dropout": 0.1,
                "generation": {"num_beams": 3},
            },
        },
        "synthesis": {
            "store": tiny_stores[0],
            "encoder": {"type": "TinyEncoder"},
            "tag_provider": {"type": "TinyTagger"},
        },
    }  # fmt: skip
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config["model"]))
    train_a_little(model, SynthPairDataset(tiny_stores[0]), steps=60, lr=5e-3)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, root / "checkpoint.pth")
    photos = root / "photos"
    photos.mkdir()
    source = tiny.TinyPhotos(num=12)
    for i in range(12):
        source.load(i).save(photos / f"photo {i:02d} ü.png")
    return config, str(root / "checkpoint.pth"), photos
