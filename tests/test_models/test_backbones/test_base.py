import hashlib

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from PIL import Image
from torch import nn

from synthcap_mm.models.backbones.base import BaseBackbone, probe_image


class ToyEncoder(BaseBackbone):
    def __init__(self, dim=6, named=True):
        super().__init__()
        if named:
            self.name = "toy"
        self.embed_dim, self.logit_scale = dim, 10.0
        self.tower = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, dim), nn.BatchNorm1d(dim), nn.Dropout(0.5))

    def preprocess(self, image):
        pixels = torch.frombuffer(bytearray(image.convert("RGB").resize((4, 4)).tobytes()), dtype=torch.uint8)
        return pixels.float().reshape(4, 4, 3).permute(2, 0, 1) / 255

    def encode_image(self, pixels):
        return self.unit(self.tower(pixels.to(self.device)))

    def encode_text(self, texts):
        return self.unit(torch.tensor([[float(len(text) + i) for i in range(self.embed_dim)] for text in texts]))


class Captioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = ToyEncoder()
        self.head = nn.Linear(6, 2)


def test_is_frozen_for_good():
    encoder = ToyEncoder()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    pixels = torch.rand(3, 3, 4, 4)
    before = encoder.encode_image(pixels)
    captioner = nn.ModuleList([encoder, nn.Dropout()]).train()
    assert captioner[1].training and not any(module.training for module in encoder.modules())
    # dropout and batch statistics would both show
    torch.testing.assert_close(encoder.encode_image(pixels), before)
    torch.testing.assert_close(encoder.encode_image(pixels[1:2]), before[1:2])
    assert not before.requires_grad


def test_is_in_no_state_dict_and_missed_by_none():
    captioner = Captioner()
    for state in (captioner.state_dict(), get_state_dict(captioner)):
        assert sorted(state) == ["head.bias", "head.weight"]
    assert len(captioner.backbone.state_dict()) == 0
    other = Captioner()
    weights = other.backbone.tower[1].weight.clone()
    result = other.load_state_dict(captioner.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    load_state_dict(other, captioner.state_dict(), strict=True)
    torch.testing.assert_close(other.head.weight, captioner.head.weight)
    torch.testing.assert_close(other.backbone.tower[1].weight, weights)
    ToyEncoder().load_state_dict({}, strict=True)
    # what others miss is still reported
    state = captioner.state_dict()
    del state["head.bias"]
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        captioner.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        load_state_dict(captioner, state, strict=True)


def test_subclass_must_fulfil_the_contract():
    with pytest.raises(TypeError, match=r"ToyEncoder.*self\.name"):
        ToyEncoder(named=False)

    class Half(ToyEncoder):
        encode_text = BaseBackbone.encode_text

    with pytest.raises(TypeError, match="encode_text"):
        Half()


def test_the_fingerprint_is_of_a_fixed_probe():
    encoder = ToyEncoder()
    first = encoder.fingerprint()
    assert first == encoder.fingerprint()
    assert first["name"] == "toy" and len(first["image"]) == len(first["text"]) == 6
    assert all(isinstance(value, float) for value in first["image"])
    assert first["image"] != ToyEncoder().fingerprint()["image"]
    # a store's fingerprint is worthless once this changes
    assert hashlib.sha256(probe_image().tobytes()).hexdigest() == PROBE_SHA256


PROBE_SHA256 = "2422a9f2ff88ea69303cbe3bb645f51b3fb1ce2d60fc7f52761b1bdc0f3bb239"


def test_encode_pil_and_defaults():
    encoder = ToyEncoder()
    images = [Image.new("L", (9, 5), 40), Image.new("RGBA", (3, 8), (1, 2, 3, 4))]
    feats = encoder.encode_pil(images)
    assert feats.shape == (2, 6) and feats.dtype == torch.float32
    torch.testing.assert_close(feats.norm(dim=1), torch.ones(2))
    assert encoder.encode_pil([]).shape == (0, 6)
    assert encoder.is_too_long(["a" * 1000, ""]) == [False, False]
    assert encoder.device == torch.device("cpu")
