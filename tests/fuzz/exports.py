"""Exported captioners: folders that come from a hub or by mail."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from .archives import hostile_pickle, script
from .making import captioner_config, has_mmdet, in_other_process, make_stores, photo, train
from .mutations import change_bytes, change_folder, change_json, dumps, files_in, hostile_texts, one_of, plant
from .running import Change, Kind
from .watch import TOKEN


def _make(folder: Path) -> None:
    import tiny_clip
    import torch

    from synthcap_mm.inference.export import export_captioner

    clip = {"type": "OpenCLIPBackbone", "quick_gelu": True, **tiny_clip.write(folder / "tiny_clip")}
    tags = {"type": "CLIPTagProvider", "encoder": clip, "vocabulary": ["dog", "cat", "red car", "boat"]}
    for name, encoder, tagger, width in (
        ("clip", clip, tags, 16),
        ("mini", {"type": "MiniCLIP"}, {"type": "MiniScenesTagger"}, 256),
    ):
        stores = make_stores(folder / name, encoder=encoder, tag_provider=tagger, refine=None)
        config = captioner_config(stores, encoder, tagger, width)
        torch.save({"state_dict": train(config).state_dict(), "meta": {}}, folder / f"{name}.pth")
        export_captioner(config, folder / f"{name}.pth", folder / f"good_{name}", samples=2)


class Exports(Kind):
    name = "exports"
    variants = ("clip", "clip", "mini")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        in_other_process(_make, folder)
        has_mmdet()
        self.photo = photo()

    def use(self, folder: Path) -> Any:
        from synthcap_mm.inference.inferencer import CaptionInferencer

        inferencer = CaptionInferencer.from_pretrained(folder, device="cpu", workers=1)
        return inferencer(self.photo, explain=True, n_best=2)["predictions"]

    def change(self, case: Path, rng: random.Random) -> Change:
        folder = self.lay(case, rng)
        knowing, same = rng.random() < 0.5, False
        before = {path: path.read_bytes() for path in files_in(folder)}
        kind = rng.choices(("json", "bytes", "folder", "attack"), (40, 15, 15, 30))[0]
        if kind == "json":
            names = ["config.json"] * 4 + ["export.json"] * 3 + ["encoder/model.json"] * 3 + ["tokenizer.json"]
            what, same = change_json(rng.choice([folder / n for n in names if (folder / n).exists()]), rng, case)
        elif kind == "bytes":
            what = change_bytes(rng.choice(files_in(folder)), rng)
        elif kind == "folder":
            what = change_folder(folder, rng, case)
        else:
            what, knowing = _attack(folder, rng, case), True
        changed = {path for path in {*before, *files_in(folder)} if before.get(path) != _content(path)}
        signed = knowing and folder / "export.json" not in changed
        if signed:
            _sign(folder, rng.random() < 0.7)
        # With right checksums it is another export. What export.json says besides decides no caption.
        return Change(f"{what}{', signed' if signed else ''}", same or not signed)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def _sign(folder: Path, add: bool) -> None:
    """Write the right checksums into the manifest."""
    manifest = json.loads((folder / "export.json").read_text())
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        data = add and path.suffix in (".json", ".safetensors", ".txt", ".gz")
        if path.is_file() and name != "export.json" and (data or name in manifest["files"]):
            data = path.read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "export.json").write_text(json.dumps(manifest))


def _attack(folder: Path, rng: random.Random, case: Path) -> str:
    """What somebody would try who knows the libraries."""
    text = rng.choice(hostile_texts(case))
    command = f"touch {case / TOKEN}"
    stored = [path for path in files_in(folder) if path.suffix == ".safetensors"]
    weights = rng.choice([*stored, *(path for path in stored if path.parent != folder)])

    def edit(name: str, *path: str, value: Any) -> str:
        file = folder / name
        if not file.exists():
            return "nothing"
        data = inner = json.loads(file.read_text())
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[path[-1]] = value
        file.write_text(dumps(data))
        return f"attack: {'/'.join(path)}={value!a}"[:200]

    def tokenizer() -> str:
        plant(folder, case)
        name = rng.choice((str(folder), ".", "../input", text))
        edit("encoder/model.json", "model_cfg", "text_cfg", "tokenizer_kwargs", value={"trust_remote_code": True})
        edit("config.json", "encoder", "tokenizer", value=None)
        return edit("encoder/model.json", "model_cfg", "text_cfg", "hf_tokenizer_name", value=name)

    def hub_text_tower() -> str:
        plant(folder, case)
        field = rng.choice(("hf_model_name", "hf_tokenizer_name", "timm_model_name"))
        tower = "vision_cfg" if field.startswith("timm") else "text_cfg"
        return edit("encoder/model.json", "model_cfg", tower, field, value=rng.choice((text, str(folder), "gpt2")))

    def detector() -> str:
        kinds = ("subprocess.Popen", "fuzz_planted.Thing")
        models = [{"type": kind, "args": command, "shell": True} for kind in kinds]
        model = rng.choice([*models, {"type": "os.system", "command": command}])
        place = rng.choice((folder, folder, case / "a/b/there"))
        place.mkdir(exist_ok=True)
        file = place / ("extra.json" if place == folder else rng.choice(("extra.json", "extra.yaml")))
        data = {"model": model, "test_dataloader": {"dataset": {"type": "CocoDataset", "pipeline": []}}}
        file.write_text(json.dumps(data))  # which is YAML as well
        configs = (str(file), {"$file": file.name}, {"$file": file.name}, f"../{file.parent.name}/{file.name}", text)
        weights = {"$file": "model.safetensors"}
        provider = {"type": "MMDetTagProvider", "config": rng.choice(configs), "checkpoint": weights}
        return edit("config.json", "tag_provider", value=provider)

    def torchscript() -> str:
        return f"attack: {weights.name} is {script(weights, rng)}"

    def pickled() -> str:
        return f"attack: {weights.name} is {hostile_pickle(weights, rng, case)}"

    def component() -> str:
        names = ("subprocess.Popen", "os.system", "fuzz_planted.Thing", "this.s", "mmdet.YOLOX", "TinyEncoder",
                 "SynthCaptioner", "RetrievalGenerator", "DiffusersGenerator", "MiniScenesPainter", "GPT2CaptionHead")  # fmt: skip
        place = rng.choice((("encoder",), ("tag_provider",), ("model", "backbone"), ("model",), ("tag_provider", "encoder"),
                            ("model", "head"), ("model", "data_preprocessor"), ("model", "init_cfg")))  # fmt: skip
        return edit("config.json", *place, value={"type": rng.choice(names), "args": command, "model": text})

    def field() -> str:
        place = rng.choice((("model", "store"), ("model", "head", "pretrained"), ("encoder", "pretrained"),
                            ("encoder", "model_config"), ("encoder", "tokenizer"), ("encoder", "model_name"),
                            ("encoder", "cache_dir"), ("tag_provider", "vocabulary"), ("tag_provider", "weights"),
                            ("model", "data_preprocessor", "tokenizer"), ("custom_imports",), ("model", "init_cfg")))  # fmt: skip
        value = rng.choice((text, {"type": "Pretrained", "checkpoint": text}, {"imports": [text]}, {"$file": text}))
        return edit("config.json", *place, value=value)

    return one_of(rng, (3, tokenizer), (2, hub_text_tower), (3, detector), (3, torchscript), (2, pickled),
                  (3, component), (4, field), (2, lambda: _numbers(weights, rng)), (1, lambda: forge_header(weights, rng)))  # fmt: skip


def _numbers(weights: Path, rng: random.Random) -> str:
    """Weights that are not finite."""
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    name = rng.choice([key for key, value in state.items() if value.is_floating_point()])
    number = rng.choice((float("nan"), float("inf"), 6e4))
    state[name] = torch.full_like(state[name], number)
    save_file(state, weights)
    return f"attack: {name} is {number}"


def forge_header(weights: Path, rng: random.Random) -> str:
    """A safetensors file whose header lies."""
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    kind = rng.choice(("dtype", "shape", "offsets", "size", "huge"))
    if kind == "dtype":
        entry["dtype"] = rng.choice(("F64", "I8", "BOOL", "X", "F8_E4M3"))
    elif kind == "shape":
        entry["shape"] = rng.choice(([2**40], [], [-1], [0], entry["shape"][::-1]))
    elif kind == "offsets":
        entry["data_offsets"] = rng.choice(([0, 2**40], [8, 0], [0, 0], [-8, 8]))
    text = json.dumps(header).encode()
    length = {"size": 2**62, "huge": 2**32}.get(kind, len(text))
    weights.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])
    return f"attack: the header of {weights.name} lies ({kind})"
