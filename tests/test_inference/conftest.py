"""A small captioner that can be put to use: config, checkpoint and photos."""

import copy

import pytest
import torch
from small_export import export_a_little, train_on_two
from small_training import train_a_little
from tiny_store import SEARCH


@pytest.fixture(scope="session")
def full_export(tmp_path_factory):
    """An export with all kinds of files: encoder, vocabulary, memory, tags by the encoder."""
    import tiny_clip

    root = tmp_path_factory.mktemp("full")
    encoder = {"type": "OpenCLIPBackbone", "quick_gelu": True, **tiny_clip.write(root / "clip")}
    tags = {"type": "CLIPTagProvider", "vocabulary": ["dog", "cat", "red"], "min_score": 0.0}
    return export_a_little(root, encoder, tags, dim=16, steps=20, lr=1e-2, num=40)


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
            "necks": {
                "memory": {"type": "TextMemoryProjection", "temperature": 0.02},
                "projector": {"type": "PrefixProjector", "prefix_length": 2},
            },
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


@pytest.fixture(scope="session")
def two_encoder_captioner(tiny_captioner, two_encoders, tmp_path_factory):
    """As ``tiny_captioner``, with captions that a second encoder retrieves."""
    config, _, photos = copy.deepcopy(tiny_captioner)
    return *train_on_two(config, two_encoders[0], SEARCH, tmp_path_factory.mktemp("two_encoders")), photos
