"""The data root's dual encoder as a backbone: how a user plugs in an encoder of theirs, from outside the package.

Named in the configs' ``custom_imports``. The network's code is not copied: it is
loaded from the data root, where it lies beside its weights.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require

if TYPE_CHECKING:
    from PIL.Image import Image


def _load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_real_dual_encoder", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@MODELS.register_module()
class DualEncoderBackbone(BaseBackbone):
    """EfficientNet-Lite0 and MiniLM-L6 with trained heads, as the data root's README describes them.

    Args:
        root (str): the folder ``dual_encoder`` of the data root.
        context (int): most tokens of a sentence; longer ones are cut. Defaults to
            64, as in the encoder's ``demo.py``.

    Shape:
        pixels (B, 3, 224, 224) → (B, 256); sentences → (B, 256); float32, L2-normalised.

    Raises:
        FileNotFoundError: if a file of the encoder is not there; the message names it.
    """

    FILES = ("dual_encoder.py", "dual_encoder_lite0_minilm.pth", "minilm_tokenizer.json")

    def __init__(self, root: str, context: int = 64) -> None:
        super().__init__()
        code, weights, tokenizer = (Path(root) / name for name in self.FILES)
        for path in (code, weights, tokenizer):
            if not path.is_file():
                raise FileNotFoundError(f"no file {path}: 'root' is the folder dual_encoder of the real data's root")
        self.net = _load_module(code).DualEncoder.load(str(weights))
        self.tokenizer = require("tokenizers").Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_truncation()
        self.context = context
        self.name = "dual_encoder_lite0_minilm"
        self.embed_dim = 256
        self.logit_scale = float(self.net.logit_scale.detach().exp())

    def preprocess(self, image: Image) -> torch.Tensor:
        """Short side to 224, centre crop, ImageNet's mean and deviation."""
        return self.net.preprocess(image)

    @torch.no_grad()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(B, 256)``."""
        return self.unit(self.net.encode_image(pixels.to(self.device)))

    @torch.no_grad()
    def encode_grid(self, images: list[Image]) -> torch.Tensor:
        """``(B, 49, 1280)``: the image tower's last map."""
        pixels = torch.stack([self.preprocess(image) for image in images])
        return self.net.visual(pixels.to(self.device)).flatten(2).transpose(1, 2)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """``(B, 256)``; sentences of like length are encoded together, since padding costs as much as words."""
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.context)
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        self.tokenizer.no_truncation()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        result = torch.empty(len(rows), self.embed_dim, device=self.device)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            lengths = torch.tensor([len(rows[i]) for i in part])
            ids = torch.zeros(len(part), int(lengths.max()), dtype=torch.long)
            for row, i in enumerate(part):
                ids[row, : len(rows[i])] = torch.tensor(rows[i])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            result[part] = self.net.encode_text(ids.to(self.device), mask.to(self.device))
        return self.unit(result)

    def is_too_long(self, texts: list[str]) -> list[bool]:
        """Which sentences have more tokens than the context."""
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return [len(encoding.ids) > self.context for encoding in self.tokenizer.encode_batch(list(texts))]
