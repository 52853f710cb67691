"""Checkpoints: files of weights from strangers, in every way that they are loaded."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from .archives import hostile_pickle, script
from .exports import forge_header
from .making import captioner_config, experiment, has_mmdet, in_other_process, make_stores, photo, train
from .mutations import change_bytes, hostile_values, one_of
from .running import Change, Kind

_ENCODER, _TAGGER = {"type": "TinyEncoder"}, {"type": "TinyTagger"}
#: Ways of loading; "detector" if mmdet is there.
_WAYS = ("caption", "test", "resume", "load_from", "init_cfg", "export", "encoder", "detector")


def _config(folder: Path) -> dict[str, Any]:
    stores = (str(folder / "made/pairs"), str(folder / "made/photos"))
    return captioner_config(stores, _ENCODER, _TAGGER, 32)


def _make(folder: Path, with_detector: bool) -> None:
    import tiny_clip
    import tiny_detector
    import torch
    from mmengine.runner import Runner
    from safetensors.torch import save_file

    make_stores(folder / "made")
    config = _config(folder)
    model = train(config)
    for way in _WAYS:
        (folder / f"good_{way}").mkdir()
    # As MMEngine writes it, with optimizer, schedule and log.
    runner = Runner.from_cfg(_as_config({**config, "work_dir": str(folder / "work")}))
    runner.train_loop._epoch = 1
    runner.model.load_state_dict(model.state_dict())
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.message_hub.update_scalar("train/loss", 0.5)
    runner.save_checkpoint(str(folder), "written.pth", meta={"epoch": 1, "iter": 1}, by_epoch=False)
    for way in _WAYS[:6]:
        (folder / f"good_{way}/input.pth").write_bytes((folder / "written.pth").read_bytes())
    save_file({name: value.clone() for name, value in model.state_dict().items()}, folder / "input.safetensors")
    clip = tiny_clip.write(folder / "tiny_clip")
    torch.save(tiny_clip.build().state_dict(), folder / "good_encoder/input.pth")
    (folder / "clip.json").write_text(json.dumps({**clip, "type": "OpenCLIPBackbone", "quick_gelu": True}))
    if with_detector:
        tiny_detector.write(folder / "detector")
        (folder / "good_detector/input.pth").write_bytes((folder / "detector/tiny.pth").read_bytes())


def _as_config(config: dict[str, Any]) -> Any:
    from mmengine.config import Config

    return Config(copy.deepcopy({"config_name": "fuzz", "experiment_name": experiment(), **config}))


class Checkpoints(Kind):
    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with_detector = has_mmdet()
        in_other_process(_make, folder, with_detector)
        self.variants = _WAYS if with_detector else _WAYS[:-1]
        self.photo = photo()
        self.also = [folder]

    def change(self, case: Path, rng: random.Random) -> Change:
        file = self.lay(case, rng) / "input.pth"
        what, intact = one_of(
            rng,
            (4, lambda: (change_bytes(file, rng), True)),
            (2, lambda: (_member(file, rng), True)),
            (3, lambda: (hostile_pickle(file, rng, case), True)),
            (1, lambda: (script(file, rng), False)),
            (3, lambda: (_content(file, rng), False)),
            (2, lambda: (self._safetensors(file, rng), False)),
            (1, lambda: (_renamed(file, rng), False)),
        )
        return Change(f"{self.variant}: {what}", intact)

    def _safetensors(self, file: Path, rng: random.Random) -> str:
        good = self.folder / "input.safetensors"
        if self.variant == "encoder":
            good = self.folder / "tiny_clip/weights.safetensors"
        target = file.with_suffix(".safetensors")
        target.write_bytes(good.read_bytes())
        file.unlink()
        return f"safetensors, {forge_header(target, rng) if rng.random() < 0.5 else change_bytes(target, rng)}"

    def use(self, folder: Path) -> Any:
        names = ("input.pth", "input.safetensors", "input.bin", "input.pt")
        file = next((str(folder / name) for name in names if (folder / name).exists()), str(folder / "input.pth"))
        return getattr(self, f"_{self.variant}")(file)

    def _caption(self, file: str) -> Any:
        from synthcap_mm.inference.inferencer import CaptionInferencer

        inferencer = CaptionInferencer(_as_config(_config(self.folder)), file, device="cpu", workers=1)
        return inferencer(self.photo)["predictions"]

    def _test(self, file: str) -> Any:
        from synthcap_mm import pipeline

        pipeline.test(self._runnable(), file)
        return json.loads(Path("test_captions.json").read_text())

    def _resume(self, file: str) -> Any:
        return self._trained(resume=True, load_from=file)

    def _load_from(self, file: str) -> Any:
        return self._trained(load_from=file)

    def _init_cfg(self, file: str) -> Any:
        return self._trained(init_cfg={"type": "Pretrained", "checkpoint": file})

    def _export(self, file: str) -> Any:
        from synthcap_mm.inference.export import export_captioner

        export_captioner(_as_config(_config(self.folder)), file, "exported", samples=2)
        from safetensors.torch import load_file

        return _digest(load_file("exported/model.safetensors"))

    def _encoder(self, file: str) -> Any:
        from synthcap_mm.registry import MODELS

        settings = json.loads((self.folder / "clip.json").read_text())
        return MODELS.build({**settings, "pretrained": file}).encode_pil([self.photo]).tolist()

    def _detector(self, file: str) -> Any:
        from synthcap_mm.registry import MODELS

        settings = {"type": "MMDetTagProvider", "config": str(self.folder / "detector/tiny.py"), "checkpoint": file}
        return [[tag.name, tag.score, tag.box] for tag in MODELS.build(settings).detect([self.photo])[0]]

    def _runnable(self, **changes: Any) -> Any:
        return _as_config({**_config(self.folder), "work_dir": ".", **changes})

    def _trained(self, init_cfg: dict | None = None, **changes: Any) -> Any:
        """What a training begins with: it ends before its first step."""
        from mmengine.runner import EpochBasedTrainLoop

        from synthcap_mm import pipeline

        cfg, begun = self._runnable(**changes), {}
        del cfg._cfg_dict["synthesis"]  # the store is not compared with the settings that made it
        if init_cfg is not None:
            cfg.model.init_cfg = init_cfg
        EpochBasedTrainLoop.run = lambda loop: begun.update(_digest(loop.runner.model.state_dict()), epoch=loop._epoch)
        pipeline.train(cfg)
        return begun


def _digest(state: dict[str, Any]) -> dict[str, Any]:
    """A hash of each tensor, and the sum of its absolute values: not finite if one of them is not."""
    import torch

    tensors = {str(name): value.detach().cpu() for name, value in state.items() if isinstance(value, torch.Tensor)}
    return {
        name: [hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16], float(value.double().abs().sum())]
        for name, value in tensors.items()
    }


def _member(file: Path, rng: random.Random) -> str:
    """Damage in one member of the archive, its checksum left as it was."""
    with zipfile.ZipFile(file) as archive:
        member = rng.choice(archive.infolist())
    data = bytearray(file.read_bytes())
    begin = member.header_offset + 30 + len(member.filename)
    at = begin + rng.randrange(max(1, member.compress_size + 64))
    data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"a bit in {member.filename} at {at}"


def _content(file: Path, rng: random.Random) -> str:
    """A checkpoint that is whole, and is not what it should be."""
    import torch

    data = torch.load(file, weights_only=False)
    state = data.get("state_dict", data)
    name = rng.choice([name for name, value in state.items() if value.is_floating_point() and value.numel()])
    kind = rng.choice(("nan", "inf", "large", "shape", "dtype", "missing", "more", "text", "meta", "list", "names"))
    if kind in ("nan", "inf", "large"):
        state[name] = torch.full_like(state[name], {"nan": float("nan"), "inf": float("-inf"), "large": 100.0}[kind])
    elif kind == "shape":
        state[name] = rng.choice((state[name].flatten()[:-1], torch.zeros(()), state[name][None], torch.zeros(0)))
    elif kind == "dtype":
        state[name] = state[name].to(rng.choice((torch.int8, torch.float64, torch.complex64, torch.bool)))
    elif kind == "missing":
        del state[name]
    elif kind == "more":
        state[rng.choice(("x", "", "head.x", 3))] = torch.zeros(1)
    elif kind == "text":
        state[name] = rng.choice(hostile_values(Path("/nowhere")))
    elif kind == "names":
        state[0] = state.pop(name)
    elif kind == "meta" and "meta" in data:
        key = rng.choice([*data["meta"], *data])
        inner = data if key in data else data["meta"]
        inner[key] = rng.choice(hostile_values(Path("/nowhere")))
        kind += f" {key} as {str(inner[key])[:60]!a}"
    else:
        data = rng.choice(
            ([1], "text", 5, None, torch.zeros(3), {}, {"state_dict": None}, {"state_dict": [1]}, {"meta": {}})
        )
        kind = f"{data!a}"
    torch.save(data, file)
    return f"{kind} at {name}"


def _renamed(file: Path, rng: random.Random) -> str:
    target = file.with_suffix(rng.choice((".safetensors", ".bin", ".pt")))
    file.rename(target)
    return f"named {target.suffix}"
