import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_diffusion
import torch
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.models.generators import DiffusersGenerator
from synthcap_mm.registry import MODELS
from synthcap_mm.store.recipes import component_recipe

CAPTIONS = ["a red dog", "the cat on a house", "a house", "a dog on the red cat"]
SEEDS = [3, 2**40 + 1, 0, 7]
#: Batched and single drawing may differ by this many of 255 levels: float32 sums depend on the batch.
LEVELS = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("diffusers")
    # the scheduler, with its settings, of Stable Diffusion v1.x
    folder = tmp_path_factory.mktemp("t2i") / "tiny-sd"
    return tiny_diffusion.write(folder, "PNDMScheduler", skip_prk_steps=True, steps_offset=1)


def draw(generator, captions=CAPTIONS, seeds=SEEDS):
    return np.stack([np.asarray(image) for image in generator.generate(captions, seeds)]).astype(int)


def make(folder, **options):
    return DiffusersGenerator(folder, **{"steps": 3, "dtype": "float32", "device": "cpu", **options})


@pytest.mark.parametrize("scheduler", [None, "DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_batch_equals_singles(folder, scheduler):
    """Also with a scheduler that draws noise at every step."""
    together = draw(make(folder, batch_size=4, scheduler=scheduler))
    generator = make(folder, batch_size=1, scheduler=scheduler)
    alone = np.concatenate([draw(generator, [caption], [seed]) for caption, seed in zip(CAPTIONS, SEEDS)])
    assert np.abs(together - alone).max() <= LEVELS
    halves = draw(make(folder, batch_size=3, scheduler=scheduler))
    assert np.abs(together - halves).max() <= LEVELS


def test_seed_and_caption_decide(folder):
    generator = make(folder)
    first = draw(generator)
    assert np.array_equal(first, draw(generator))
    assert np.array_equal(first, draw(make(folder)))
    torch.manual_seed(1)  # the global generator has no part in it
    assert np.array_equal(first, draw(generator))
    same_caption = draw(generator, ["a dog"] * 3, [1, 2, 1])
    assert np.abs(same_caption[0] - same_caption[1]).max() > 5
    # Two places in a batch may be computed by different threads, and round differently.
    assert np.abs(same_caption[0] - same_caption[2]).max() <= LEVELS
    same_seed = draw(generator, ["a red dog", "the house on the cat"], [5, 5])
    assert np.abs(same_seed[0] - same_seed[1]).max() > LEVELS


def test_pictures_are_rgb_of_the_wanted_size(folder):
    image = make(folder).generate(["a dog"], [0])[0]
    assert image.mode == "RGB" and image.size == (16, 16)
    assert make(folder, height=24, width=32).generate(["a dog"], [0])[0].size == (32, 24)
    generator = MODELS.build({"type": "DiffusersGenerator", "model": folder, "steps": 1, "device": "cpu"})
    assert generator.generate([], []) == [] and not generator.retrieves and generator.to("cpu") is generator


def test_settings_change_the_picture(folder):
    plain = draw(make(folder))
    others = ({"steps": 4}, {"guidance_scale": 2.0}, {"negative_prompt": "a cat"}, {"scheduler": "DDIMScheduler"})
    for changed in others:
        assert np.abs(plain - draw(make(folder, **changed))).max() > LEVELS, changed
    for same in ({"attention": "slicing"}, {"attention": "sdpa"}, {"vae_slicing": True}, {"vae_tiling": True}):
        assert np.abs(plain - draw(make(folder, **same))).max() <= LEVELS, same


def test_scheduler_by_name_keeps_the_models_noise_schedule(folder):
    generator = make(folder, scheduler="DPMSolverMultistepScheduler")
    assert type(generator.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert generator.pipe.scheduler.config.beta_end == 0.012
    assert type(make(folder).pipe.scheduler).__name__ == "PNDMScheduler"


@pytest.fixture()
def said(monkeypatch):
    """What is logged."""
    lines, name = [], "synthcap_mm.models.generators.diffusers_generator.print_log"
    monkeypatch.setattr(name, lambda message, **kwargs: lines.append(message))
    return lines


def test_only_accepted_arguments_are_passed(folder, said):
    generator = make(folder)

    class Plain:
        """A pipeline that has no guidance."""

        def __call__(self, prompt, num_inference_steps=5, generator=None, output_type="pil"):
            self.got = num_inference_steps, [g.initial_seed() for g in generator]
            return SimpleNamespace(images=[Image.new("L", (4, 4)) for _ in prompt])

    generator._pipe = plain = Plain()
    for _ in range(2):
        images = generator.generate(CAPTIONS, SEEDS)
    assert plain.got == (3, SEEDS) and [image.mode for image in images] == ["RGB"] * 4
    assert len(said) == 1 and "guidance_scale" in said[0]  # once


def test_float16_becomes_float32_on_a_cpu_and_is_said_once(folder, said):
    generator = make(folder, dtype="float16")
    assert generator.pipe.unet.dtype == torch.float32
    assert np.array_equal(draw(generator), draw(make(folder)))
    assert generator.dtype == torch.float32
    assert len(said) == 1 and "float32" in said[0]
    assert make(folder, dtype="bfloat16").pipe.unet.dtype == torch.bfloat16


def test_blackened_pictures_are_said(folder, said):
    generator = make(folder)
    real = generator.pipe

    class Checked:
        def __call__(self, prompt, generator=None, num_inference_steps=1, guidance_scale=1.0, output_type="pil"):
            drawn = real(prompt, generator=generator, num_inference_steps=2)
            drawn.nsfw_content_detected = [True, False, True, False]
            return drawn

    generator._pipe = Checked()
    generator.generate(CAPTIONS, SEEDS)
    assert len(said) == 1 and "2 of 4" in said[0]


def test_loads_without_progress_bars_or_warnings(folder, capfd):
    from diffusers.utils import logging as of_diffusers

    before = of_diffusers.is_progress_bar_enabled()
    make(folder).generate(["a dog"], [0])
    said = capfd.readouterr().err
    assert "it/s" not in said and "accelerate" not in said and of_diffusers.is_progress_bar_enabled() == before


def test_autocast_of_the_caller_changes_nothing(folder):
    generator = make(folder)
    plain = draw(generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(plain, draw(generator))


OTHERS = {
    "StableDiffusionXLPipeline": tiny_diffusion.write_xl,
    "StableDiffusion3Pipeline": tiny_diffusion.write_sd3,
    "FluxPipeline": tiny_diffusion.write_flux,
    "PixArtSigmaPipeline": tiny_diffusion.write_pixart,
}
#: What a small copy needs to be called with: PixArt's own sizes are 256 pixels and more.
CALLS = {
    "FluxPipeline": {"max_sequence_length": 16},
    "PixArtSigmaPipeline": {"max_sequence_length": 16, "use_resolution_binning": False},
}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Folders of the other architectures, each built when it is first asked for."""
    pytest.importorskip("diffusers")
    root, made = tmp_path_factory.mktemp("others"), {}

    def get(name):
        if name not in made:
            made[name] = OTHERS[name](root / name)
        return made[name]

    return get


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_batch_equals_singles(others, name):
    size = {"height": 16, "width": 16, "call_options": CALLS.get(name)}
    generator = make(others(name), batch_size=4, **size)
    together = draw(generator)
    assert type(generator.pipe).__name__ == name
    assert together.shape == (4, 16, 16, 3)
    single = make(others(name), batch_size=1, **size)
    alone = np.concatenate([draw(single, [caption], [seed]) for caption, seed in zip(CAPTIONS, SEEDS)])
    assert np.abs(together - alone).max() <= LEVELS
    assert np.abs(together[0] - together[1]).max() > LEVELS
    assert np.array_equal(draw(single, CAPTIONS[:1], SEEDS[:1]), draw(single, CAPTIONS[:1], SEEDS[:1]))
    for option in ({"vae_slicing": True}, {"attention": "sdpa"}):
        assert np.abs(together - draw(make(others(name), batch_size=4, **size, **option))).max() <= LEVELS


def test_a_negative_prompt_of_flux_counts_with_true_guidance(others):
    flux = others("FluxPipeline")
    options = {"max_sequence_length": 16, "true_cfg_scale": 4.0}
    size = {"height": 16, "width": 16}
    plain = make(flux, call_options={"max_sequence_length": 16}, **size)
    other = make(flux, negative_prompt="a cat", call_options=options, **size)
    assert np.abs(draw(plain) - draw(other)).max() > LEVELS


def test_what_a_pipeline_cannot_take_is_refused(folder, others):
    sd3 = others("StableDiffusion3Pipeline")
    for model, options, named in (
        (folder, {"negative_prompt": "a cat", "guidance_scale": 1.0}, "guidance_scale"),
        (folder, {"call_options": {"guidance_rescal": 0.5}}, r"'guidance_rescal'.*guidance_rescale"),
        (folder, {"call_options": {"prompt": "x"}}, "'prompt'"),
        (folder, {"scheduler": "FlowMatchEulerDiscreteScheduler"}, "StableDiffusionPipeline"),
        (sd3, {"attention": "slicing"}, "attention='slicing'"),
        (sd3, {"scheduler": "DDIMScheduler"}, r"StableDiffusion3Pipeline.*FlowM"),
        (others("FluxPipeline"), {"negative_prompt": "a cat"}, "true_cfg_scale"),
    ):
        with pytest.raises(UserError, match=named):
            make(model, **options).generate(["a dog"], [0])


def test_parts_that_a_pipeline_lacks_are_refused(folder):
    class Plain:
        def __call__(self, prompt, num_inference_steps=5, generator=None): ...

    with pytest.raises(UserError, match="negative_prompt, height"):
        make(folder, negative_prompt="x", height=16)._check(Plain())


def test_turbo_with_guidance_is_said(folder, tmp_path, said):
    turbo = shutil.copytree(folder, tmp_path / "sd-turbo")
    assert make(str(turbo), guidance_scale=0.0).pipe is not None and not said
    assert make(str(turbo)).pipe is not None and "guidance" in said[0]


def test_compile_is_of_the_denoiser(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *args, **kwargs: compiled.append(type(self).__name__))
    generator = make(folder, compile=True)
    assert generator.pipe is not None and compiled == ["UNet2DConditionModel"]


def test_scheduler_options_go_over_the_models_own(folder):
    options = {"timestep_spacing": "trailing"}
    generator = make(folder, scheduler="DDIMScheduler", scheduler_options=options)
    assert generator.pipe.scheduler.config.timestep_spacing == "trailing"
    assert generator.pipe.scheduler.config.beta_end == 0.012


def test_recipes_know_folders_by_content_and_models_of_the_hub_by_commit(folder, tmp_path, monkeypatch):
    import huggingface_hub

    other = tiny_diffusion.write(tmp_path / "tiny-sd", seed=1)

    def recipe(model, **options):
        return component_recipe({"type": "DiffusersGenerator", "model": model, **options})

    assert recipe(folder)["model"]["folder"] == "tiny-sd" and recipe(folder) != recipe(other)
    for same in ({"batch_size": 2}, {"vae_slicing": True}, {"attention": "slicing"}, {"device": "cpu"}):
        assert recipe(folder, **same) == recipe(folder), same
    assert recipe(folder, steps=3) != recipe(folder)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: "/cache/snapshots/0a1b/x.json")
    assert recipe("nobody/model")["revision"] == "0a1b"


class TestBadInput:
    def test_missing_model(self, tmp_path):
        pytest.importorskip("diffusers")
        missing = DiffusersGenerator("nobody/no-such-model", device="cpu", local_files_only=True)
        with pytest.raises(FileNotFoundError, match="hf download nobody/no-such-model"):
            missing.generate(["a dog"], [0])
        with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
            DiffusersGenerator(str(tmp_path), device="cpu").generate(["a dog"], [0])

    def test_folder_without_weights(self, tmp_path):
        pytest.importorskip("diffusers")
        folder = Path(tiny_diffusion.write(tmp_path / "sd"))
        for weights in (folder / "unet").glob("*.safetensors"):
            weights.unlink()
        with pytest.raises(FileNotFoundError, match="unet"):
            make(str(folder)).generate(["a dog"], [0])

    def test_unknown_scheduler(self, folder):
        with pytest.raises(UserError, match=r"DDIMSheduler.*DDIMScheduler"):
            make(folder, scheduler="DDIMSheduler")

    def test_numbers(self, folder):
        with pytest.raises(UserError, match="scheduler_options"):
            make(folder, scheduler_options={"beta_end": 0.1})
        with pytest.raises(ValueError, match="4 captions, but 2 seeds"):
            make(folder).generate(CAPTIONS, [1, 2])

    def test_xformers(self, folder, monkeypatch):
        name = "synthcap_mm.models.generators.diffusers_generator.find_spec"
        monkeypatch.setattr(name, lambda package: None)
        with pytest.raises(ImportError, match="pip install xformers"):
            make(folder, attention="xformers")
        monkeypatch.setattr(name, lambda package: package)

    def test_missing_package(self, monkeypatch):
        def hidden(name, *args, **kwargs):
            raise ImportError(f"No module named {name!r}")

        monkeypatch.setattr("importlib.import_module", hidden)
        with pytest.raises(ImportError, match=r"pip install 'synthcap_mm\[t2i\]'"):
            DiffusersGenerator("x")
