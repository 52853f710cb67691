"""A small exported captioner of the mini-world's captions."""

import copy

from small_training import train_a_little


def export_a_little(root, encoder, tag_provider, dim, steps, lr, num):
    """Make a store, train a captioner of ``dim`` wide features a little, and export it to ``root / 'export'``."""
    import torch
    from mmengine.registry import init_default_scope

    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.inference.export import export_captioner
    from synthcap_mm.registry import MODELS
    from synthcap_mm.synthesis.synthesis import Synthesis

    init_default_scope("synthcap_mm")
    store, parts = str(root / "store"), {"encoder": encoder, "tag_provider": tag_provider}
    Synthesis(
        store=store,
        captions={"type": "MiniScenesCaptions", "num": num},
        generator={"type": "MiniScenesPainter"},
        tokenizer={"kind": "train", "vocab_size": 400},
        holdout=0.1,
        **parts,
    ).run()
    model = {
        "type": "SynthCaptioner",
        "store": store,
        "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"max_tags": 2}, "max_length": 16},
        "necks": {
            "memory": {"type": "TextMemoryProjection", "temperature": 0.01},
            "projector": {"type": "PrefixProjector", "prefix_length": 2, "input_scale": dim**0.5},
        },
        "head": {"type": "GPT2CaptionHead", "width": 32, "layers": 1, "heads": 2, "positions": 80, "dropout": 0.0,
                 "generation": {"num_beams": 2}},
    }  # fmt: skip
    torch.manual_seed(0)
    built = MODELS.build(model)
    train_a_little(built, SynthPairDataset(store), steps, lr)
    torch.save({"state_dict": built.state_dict()}, root / "checkpoint.pth")
    export_captioner({"model": model, "synthesis": {"store": store, **parts}}, root / "checkpoint.pth", root / "export")
    return root / "export"


def train_on_two(config, store, other_encoders, root, steps=60):
    """The config with a neck that retrieves by the encoder ``'search'``, and a checkpoint of it."""
    import torch
    from mmengine.registry import init_default_scope

    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.registry import MODELS

    init_default_scope("synthcap_mm")
    necks = {"fusion": {"type": "RetrievalFusion", "k": 3, "encoder": "search"},
             "projector": config["model"]["necks"]["projector"]}  # fmt: skip
    config["model"] |= {"store": store, "necks": necks}
    config["synthesis"] |= {"store": store, "other_encoders": other_encoders}
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config["model"]))
    train_a_little(model, SynthPairDataset(store), steps=steps, lr=5e-3)
    torch.save({"state_dict": model.state_dict(), "meta": {"captioner": model.identity}}, root / "checkpoint.pth")
    return config, str(root / "checkpoint.pth")
