"""A tiny CLIP in open_clip's own file formats, for the tests."""

import gzip
import json

CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 600, "width": 32, "heads": 2, "layers": 1},
}
MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "r e", "re d</w>"]


def build(seed=0, **changes):
    """A randomly initialised open_clip model of the tiny config."""
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    model = CLIP(**json.loads(json.dumps({**CONFIG, **changes})))
    # larger weights than the initial ones, so that the activation matters for the features
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)
    return model.eval()


def write(folder, seed=0, **changes):
    """Writes ``config.json``, ``bpe.txt.gz`` and ``weights.safetensors``; returns the backbone's arguments."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    write_bpe(folder / "bpe.txt.gz")
    state = {key: value.contiguous().clone() for key, value in build(seed, **changes).state_dict().items()}
    save_file(state, str(folder / "weights.safetensors"))
    return {
        "model_name": "tiny",
        "pretrained": str(folder / "weights.safetensors"),
        "model_config": str(folder / "config.json"),
        "tokenizer": str(folder / "bpe.txt.gz"),
    }


def write_bpe(path, merges=MERGES):
    with gzip.open(path, "wb") as file:
        file.write("\n".join(["#version: test", *merges]).encode())
