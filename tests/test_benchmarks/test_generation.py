"""The cost of drawing: the script, on a tiny pipeline; and that the other one has Stable Diffusion's shape."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generation():
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location("generation", ROOT / "benchmarks" / "generation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_refuses_a_cpu(generation, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--tiny"):
        generation.main([])


def test_tiny_run(generation, tmp_path, capsys):
    options = ["--tiny", "--batches", "1", "2", "--steps", "2", "--repeats", "2", "--compile", "no", "--device", "cpu"]
    report = generation.main([*options, "--json", str(tmp_path / "cost.json")])
    said = capsys.readouterr().out
    assert "figures mean nothing" in said and said.count("\n| ") == 3
    assert [row["batch"] for row in report["results"]] == [1, 2] and not any(r["compile"] for r in report["results"])
    assert all(row["images_per_s"] > 0 for row in report["results"])
    assert json.loads((tmp_path / "cost.json").read_text())["tiny"] is True


def test_compiled_settings_are_measured_too(generation, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *args, **kwargs: compiled.append(type(self).__name__))
    report = generation.main(["--tiny", "--batches", "1", "--steps", "1", "--repeats", "1", "--device", "cpu"])
    assert [row["compile"] for row in report["results"]] == [False, True] and compiled == ["UNet2DConditionModel"]


def test_shape_is_that_of_stable_diffusion(generation):
    """The numbers of weights of v1.5's UNet, VAE and text encoder."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    text, unet, vae = generation.shapes(tiny=False)
    with torch.device("meta"):
        models = (
            diffusers.UNet2DConditionModel(**unet),
            diffusers.AutoencoderKL(**vae),
            CLIPTextModel(CLIPTextConfig(**text)),
        )
    assert [sum(p.numel() for p in m.parameters()) for m in models] == [859_520_964, 83_653_863, 123_060_480]


def test_hours_and_table(generation):
    assert generation.hours(10.0, 1) == pytest.approx(566_747 / 36_000)
    assert generation.hours(10.0, 64) == pytest.approx(566_747 / 36_000 / 64)
    rows = [
        {"batch": 8, "compile": True, "images_per_s": 10.0, "peak_gib": 7.5},
        {"batch": 32, "compile": False, "images_per_s": None},
    ]
    text = generation.table(rows)
    assert "| 8 | yes | 10.00 | 7.5 | 15.7 | 2.0 | 0.2 |" in text and "| 32 | no | out of memory |" in text


def test_out_of_memory_is_a_result(generation, monkeypatch, tmp_path):
    def full(self, captions, seeds):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generation.DiffusersGenerator, "generate", full)
    report = generation.main(["--tiny", "--batches", "1", "--compile", "no", "--device", "cpu"])
    assert report["results"][0]["images_per_s"] is None and report["hours_computed"] == {}
