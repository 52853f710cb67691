"""The page that stands in an exported folder: what it is, what is in it and what is not, how to use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthcap_mm.registry import MODELS, SCOPE

_FILES = {
    "config.json": "the captioner, its encoders and its tag provider, as data",
    "model.safetensors": "weights of necks and decoder",
    "memory.safetensors": "features of the memory's captions",
    "memory.txt": "the memory's captions, one a line",
    "tokenizer.json": "the decoder's tokenizer",
    "encoder/weights.safetensors": "weights of the encoder",
    "encoder/model.json": "the encoder's architecture and preprocessing",
    "encoder/bpe.txt.gz": "the encoder's vocabulary",
    "detector/weights.safetensors": "weights of the detector",
}
#: Packages whose components every reader has.
_KNOWN = (SCOPE, "mmengine", "torch")
_TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

An image captioner that was trained from captions alone, exported by synthcap_mm {{ manifest.synthcap_mm }}. Install
synthcap_mm to use it.
{%- if modules %} It has components that are not synthcap_mm's. Whoever exported it has their code (Python modules:
{{ modules | join(", ") }}); put it into the folder where you type this command.
{%- endif %}
{% if manifest.left_out %}
A part is not in the folder (see Parts). Use it in Python, and give that part.
{%- else %}
```bash
{{ command }}
```
{%- endif %}

```python
{%- for module in modules %}
import {{ module }}
{%- endfor %}
from synthcap_mm.inference.inferencer import CaptionInferencer

captioner = CaptionInferencer.from_pretrained("{{ folder }}")
captioner("photo.jpg")["predictions"]
```

Reading this folder executes nothing of it: the config is json, the weights are safetensors.

## Parts

- checkpoint: {{ manifest.checkpoint.file }}, epoch {{ manifest.epoch }}
- encoder: {{ (manifest.encoder or {}).name or "unknown" }}; its weights are {{ encoder_place }}
{%- for name, encoder in manifest.other_encoders.items() %}
- encoder '{{ name }}': {{ encoder.name }}; its weights are {{ other_places[name] }}
{%- endfor %}
- tags: {{ tags }}
{%- if manifest.memory %}
- memory: {{ manifest.memory.rows }} captions
{%- endif %}
{%- for why in manifest.left_out.values() %}
- {{ why }}
{%- endfor %}

## Trained on
{% for line in trained_on %}
- {{ line }}
{%- endfor %}

## Compared with the captioner before it was exported

{{ manifest.compared.summary | capitalize }}.

## Files

| file | what | MB |
|---|---|---|
{%- for file, what, size in files %}
| `{{ file }}` | {{ what }} | {{ "%.2f" | format(size) }} |
{%- endfor %}

## Limits

It writes what its captions taught it, mistakes and prejudices included, and names things that are not there when a
photo is unlike its captions. How well it does is for you to measure on photos of yours: `tools/test.py`. Licences of
the captions, the encoder and the detector apply.
"""


def model_card(
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    captions: int | None,
    folder: str,
) -> str:
    """The page, Markdown with the Hugging Face hub's header.

    Args:
        manifest: of the export.
        config: of the export.
        training: the config that the captioner was trained with.
        captions: how many captions its store has, if that is known.
        folder: name of the export's folder.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(library_name="synthcap_mm", pipeline_tag="image-to-text", tags=["image-captioning"])
    files = [
        (file, _FILES.get(file) or f"a file of the {file.split('/')[0].replace('_', ' ')}", record["bytes"] / 1e6)
        for file, record in manifest["files"].items()
    ]
    modules = sorted({*_modules_of(config)})
    words = ["synthcap-mm", "caption", folder, "photos/", "--out", "captions.jsonl"]
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        manifest=manifest,
        name=manifest["config_name"] or "captioner",
        encoder_place=_encoder_place(config["encoder"]),
        other_places={name: _encoder_place(config["other_encoders"].get(name)) for name in manifest["other_encoders"]},
        tags=_tags(manifest, config),
        trained_on=_trained_on(training, captions),
        files=files,
        folder=folder,
        modules=modules,
        command=shlex.join([*words, "--import", *modules] if modules else words),
    )
    return card.content.rstrip() + "\n"


def _modules_of(config: Any) -> Iterator[str]:
    """The modules of components that are neither synthcap_mm's nor MMEngine's."""
    for value in config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ():
        yield from _modules_of(value)
    kind = config.get("type") if isinstance(config, Mapping) else None
    module = getattr(MODELS.get(kind), "__module__", SCOPE) if isinstance(kind, str) else SCOPE
    if module.partition(".")[0] not in _KNOWN:
        yield module


def _encoder_place(encoder: Mapping[str, Any] | None) -> str:
    if encoder is None:
        return "**not** in this folder"
    return "part of the package synthcap_mm" if encoder["type"] == "MiniCLIP" else "in this folder"


def _tags(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if "tag_provider" in manifest["left_out"]:
        return "**not** in this folder"
    if config["tag_provider"] is None:
        return "the captioner uses no tags"
    kind = config["tag_provider"]["type"]
    is_detector = kind.endswith("MMDetTagProvider")
    return kind + (", its weights in this folder, its code from mmdet" if is_detector else "")


def _trained_on(training: Mapping[str, Any], captions: int | None) -> list[str]:
    lines = [f"captions: {'an unknown number' if captions is None else captions} (no image-text pairs)"]
    for name, label in (("generator", "images by"), ("tag_provider", "tags by")):
        part = training.get("synthesis", {}).get(name)
        if part:
            model = str(part.get("model") or "")
            model = Path(model).name if Path(model).exists() else model  # no folder of this machine
            lines.append(f"{label}: {part['type']} {model}".rstrip())
    return lines
