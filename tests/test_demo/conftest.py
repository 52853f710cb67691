"""A captioner for the page: the package's own parts alone, so that a process of its own can read its export."""

import pytest
from small_training import train_a_little


@pytest.fixture(scope="session")
def page_export(tmp_path_factory):
    """An exported captioner of the mini-world, trained for a few steps."""
    import torch
    from mmengine.registry import init_default_scope

    from synthcap_mm.apis.export import export_captioner
    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.registry import MODELS
    from synthcap_mm.synthesis.synthesis import Synthesis

    init_default_scope("synthcap_mm")
    root = tmp_path_factory.mktemp("page")
    parts = {"encoder": {"type": "MiniCLIP"}, "tag_provider": {"type": "MiniScenesTagger"}}
    store = str(root / "pairs")
    Synthesis(
        store=store,
        captions={"type": "MiniScenesCaptions", "num": 60},
        generator={"type": "MiniScenesPainter"},
        tokenizer={"kind": "train", "vocab_size": 400},
        holdout=0.1,
        **parts,
    ).run()
    model = {
        "type": "SynthCaptioner",
        "store": store,
        "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"max_tags": 2}, "max_length": 16},
        "necks": [
            {"type": "TextMemoryProjection", "temperature": 0.01},
            {"type": "PrefixProjector", "in_dim": 256, "width": 32, "prefix_length": 2, "input_scale": 16.0},
        ],
        "head": {"type": "GPT2CaptionHead", "width": 32, "layers": 1, "heads": 2, "positions": 80, "dropout": 0.0},
    }
    torch.manual_seed(0)
    built = MODELS.build({**model})
    train_a_little(built, SynthPairDataset(store), steps=40, lr=1e-2)
    torch.save({"state_dict": built.state_dict()}, root / "checkpoint.pth")
    export_captioner({"model": model, "synthesis": {"store": store, **parts}}, root / "checkpoint.pth", root / "export")
    return root / "export"


@pytest.fixture(scope="session")
def tiny_captioner_on_page(page_export):
    from synthcap_mm.apis.inferencer import CaptionInferencer

    return CaptionInferencer.from_pretrained(page_export, device="cpu")
