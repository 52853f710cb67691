"""The page that stands in an exported folder: what it is, what is in it and what is not, how to use it."""

from __future__ import annotations

from typing import Any

from synthcap_mm.stores import Store

_FILES = {
    "config.json": "the captioner, its encoder and its tag provider, as data",
    "model.safetensors": "weights of necks and decoder",
    "memory.safetensors": "features of the memory's captions",
    "memory.txt": "the memory's captions, one a line",
    "tokenizer.json": "the decoder's tokenizer",
    "encoder/weights.safetensors": "weights of the encoder",
    "encoder/model.json": "the encoder's architecture and preprocessing",
    "encoder/bpe.txt.gz": "the encoder's vocabulary",
    "detector/weights.safetensors": "weights of the detector",
}


def _trained_on(store: Store | None) -> list[str]:
    if store is None:
        return ["The config named no store, so what it was trained on is not known here."]
    made = store.manifest
    lines = [f"- captions: {len(store.captions)} (no image-text pairs)"]
    for name, label in (("generator", "pictures by"), ("tag_provider", "tags by")):
        part = made.get(name)
        if part:
            model = part.get("model") or part.get("config") or ""
            lines.append(f"- {label}: {part.get('type')} {model}".rstrip())
    return lines


def model_card(manifest: dict[str, Any], config: dict[str, Any], store: Store | None) -> str:
    """The page, Markdown.

    Args:
        manifest: of the export.
        config: of the export.
        store: that the captioner was trained on, if it is known.
    """
    name = manifest["config_name"] or "captioner"
    encoder, memory = manifest["encoder"] or {}, manifest["memory"]
    where = "in this folder"
    if "encoder" in manifest["left_out"] or config["encoder"] is None:
        where = "**not** in this folder"
    elif "encoder weights" in manifest["left_out"]:
        where = "**not** in this folder: open_clip downloads them at first use"
    elif config["encoder"]["type"] == "MiniCLIP":
        where = "part of the package synthcap_mm"
    tagger = config["tag_provider"]
    tags = "the captioner uses no tags"
    if tagger is not None:
        needs = (
            ", its weights in this folder, its code from mmdet" if tagger["type"].endswith("MMDetTagProvider") else ""
        )
        tags = f"{tagger['type']}{needs}"
    elif "tag_provider" in manifest["left_out"]:
        tags = "**not** in this folder"
    lines = [
        f"# {name}",
        "",
        f"An image captioner that was trained from captions alone, exported by synthcap_mm {manifest['synthcap_mm']}.",
        "",
        "```python",
        "from synthcap_mm.inference.inferencer import CaptionInferencer",
        "",
        'captioner = CaptionInferencer.from_pretrained("this/folder")',
        'captioner("photo.jpg")["predictions"]',
        "```",
        "",
        "Reading this folder executes nothing of it: the config is json, the weights are safetensors.",
        "",
        "## Parts",
        "",
        f"- checkpoint: {manifest['checkpoint']['file']}, epoch {manifest['epoch']}",
        f"- encoder: {encoder.get('name', 'unknown')}; its weights are {where}",
        f"- tags: {tags}",
    ]
    if memory is not None:
        lines.append(f"- memory: {memory['rows']} of {memory['of']} captions, {memory['precision']}")
    lines += [f"- {why}" for why in manifest["left_out"].values()]
    lines += [
        "",
        "## Trained on",
        "",
        *_trained_on(store),
        "",
        "## Compared with the captioner before it was exported",
        "",
    ]
    lines += [f"{manifest['compared']['told'][:1].upper()}{manifest['compared']['told'][1:]}.", "", "## Files", ""]
    lines += ["| file | what | MB |", "|---|---|---|"]
    for file, record in manifest["files"].items():
        if file in _FILES:
            lines.append(f"| `{file}` | {_FILES[file]} | {record['bytes'] / 1e6:.2f} |")
    lines += [
        "",
        "## Limits",
        "",
        "It writes what its captions taught it, mistakes and prejudices included, and names things that are not there "
        "when a picture is unlike its captions. How well it does is for you to measure on pictures of yours: "
        "`tools/test.py`. Licences of the captions, the encoder and the detector apply.",
    ]
    return "\n".join(lines) + "\n"
