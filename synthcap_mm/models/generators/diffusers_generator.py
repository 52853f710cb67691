"""Any text-to-image pipeline of diffusers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmengine.logging import print_log

from synthcap_mm.errors import UserError, near
from synthcap_mm.hub import pinned
from synthcap_mm.models.generators.base import BaseGenerator, check_seeds
from synthcap_mm.options import Count, Device, Name, NotNegative
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require

if TYPE_CHECKING:
    from PIL.Image import Image

#: What the pipeline's call gets from the generator itself.
_OWN = ("prompt", "generator", "num_inference_steps", "guidance_scale")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@MODELS.register_module()
class DiffusersGenerator(BaseGenerator):
    """Draws captions with a pipeline of diffusers, from a hub name or a local folder.

    Each picture has its own noise, drawn on the CPU from its own seed, so that it
    depends neither on the batch it is in nor on the device that the noise is used
    on. The pipeline is loaded when it is first needed; only the arguments that its
    call accepts are passed.

    Settings that suit a model are its author's (its page on the hub): Turbo models
    want ``guidance_scale=0.0`` and 1 to 4 steps, FLUX.1-schnell 4 steps and 0.0,
    FLUX.1-dev about 3.5, Stable Diffusion 3 about 7 and 28 steps, PixArt 4.5. What a
    pipeline cannot take is refused when it is loaded: a negative prompt that it has no
    place for, or that would do nothing without guidance (FLUX wants
    ``call_options=dict(true_cfg_scale=...)`` for one). PixArt rounds sizes to those it was
    trained on, unless ``call_options=dict(use_resolution_binning=False)``.

    Run here on CPUs with small pipelines of the real classes (Stable Diffusion 1.x, XL,
    3, FLUX, PixArt); not with the real weights, which cannot be downloaded here, nor on a GPU.

    Args:
        model (str): name on the Hugging Face hub, or a local folder. Defaults to
            'stable-diffusion-v1-5/stable-diffusion-v1-5' (assumed: the method needs
            a pre-trained text-to-image model; SaCap's public code uses Stable Diffusion v1.5).
        revision (str, optional): of the hub's repository. Defaults to None.
        variant (str, optional): of the weights, e.g. 'fp16'. Defaults to None.
        dtype (str): 'float16', 'bfloat16' or 'float32'; float16 becomes float32 on
            a CPU. Defaults to 'float16' (SaCap's).
        device (str, optional): Defaults to None: the GPU if there is one.
        scheduler (str, optional): a scheduler class of diffusers, e.g.
            'DPMSolverMultistepScheduler'. Defaults to None, the model's own.
        scheduler_options (dict, optional): settings of that scheduler over the model's
            own, e.g. ``dict(timestep_spacing='trailing')``. Defaults to None.
        steps (int): denoising steps. Defaults to 20 (SaCap's).
        guidance_scale (float): classifier-free guidance. Defaults to 7.5 (diffusers' own default, which SaCap keeps).
        negative_prompt (str, optional): for all pictures. Defaults to None.
        call_options (dict, optional): more arguments of the pipeline's call, e.g.
            ``dict(true_cfg_scale=4.0)`` or ``dict(max_sequence_length=256)``. Defaults to None.
        height (int, optional): pixels. Defaults to None, the model's own.
        width (int, optional): pixels. Defaults to None, the model's own.
        batch_size (int): pictures drawn together. Defaults to 8.
        compile (bool): ``torch.compile`` the denoiser; a batch of another size compiles
            anew. Defaults to False.
        attention (str, optional): 'sdpa' (PyTorch's fused one), 'slicing' (less memory,
            slower; UNets only) or 'xformers' (a GPU and the package). Defaults to None,
            what diffusers chooses.
        vae_slicing (bool): pictures are decoded one at a time, with less memory. Defaults to False.
        vae_tiling (bool): large pictures are decoded in tiles, with less memory; the tiles
            are blended. Defaults to False.
        safety_checker (bool): keep the model's safety checker, which blackens
            pictures it objects to; they are counted and said. Defaults to False.
        local_files_only (bool): never ask the hub. Defaults to False.

    Raises:
        ImportError: if diffusers or transformers is missing.
        UserError: for an unknown scheduler (with near names); when the pipeline is first needed, for settings that it
            would pass over.
        FileNotFoundError: when the pipeline is first needed and the model is
            neither a folder nor can be got from the hub.
    """

    not_in_recipe = (
        "device", "batch_size", "compile", "attention", "vae_slicing", "vae_tiling", "local_files_only",
    )  # fmt: skip

    def __init__(
        self,
        model: Name = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str | None = None,
        variant: str | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        device: Device | None = None,
        scheduler: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        steps: Count = 20,
        guidance_scale: NotNegative = 7.5,
        negative_prompt: str | None = None,
        call_options: dict[str, Any] | None = None,
        height: Count | None = None,
        width: Count | None = None,
        batch_size: Count = 8,
        compile: bool = False,
        attention: Literal["sdpa", "slicing", "xformers"] | None = None,
        vae_slicing: bool = False,
        vae_tiling: bool = False,
        safety_checker: bool = False,
        local_files_only: bool = False,
    ) -> None:
        for package in ("diffusers", "transformers"):
            require(package, extra="t2i", purpose="DiffusersGenerator")
        if attention == "xformers" and find_spec("xformers") is None:
            raise ImportError("attention='xformers' needs a package of its own: pip install xformers")
        if scheduler_options and scheduler is None:
            raise UserError("scheduler_options are for a scheduler that is named; give scheduler= too")
        self.model = model
        self.revision = revision
        self.variant = variant
        self.steps = steps
        self.guidance_scale = guidance_scale
        self.negative_prompt = negative_prompt
        self.height = height
        self.width = width
        self.batch_size = batch_size
        self.compile = compile
        self.attention = attention
        self.vae_slicing = vae_slicing
        self.vae_tiling = vae_tiling
        self.call_options = dict(call_options or {})
        self.scheduler_options = dict(scheduler_options or {})
        self.safety_checker = safety_checker
        self.local_files_only = local_files_only
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._asked_dtype = dtype
        self._scheduler_class = _find_scheduler(scheduler) if scheduler is not None else None
        self._pipe: Any = None
        self._index: dict[str, Any] | None = None
        self._said: set[str] = set()

    @classmethod
    def pin(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """See :func:`~synthcap_mm.hub.pinned`."""
        return pinned(cls, arguments, "model_index.json")

    @property
    def dtype(self) -> torch.dtype:
        """What the pipeline computes in: float16 needs a GPU."""
        if self.device.type == "cpu" and self._asked_dtype == "float16":
            self._say_once("float16 is not for CPUs: DiffusersGenerator draws in float32")
            return torch.float32
        return DTYPES[self._asked_dtype]

    @property
    def pipe(self) -> Any:
        """The pipeline, loaded when it is first asked for."""
        if self._pipe is None:
            self._pipe = self._load()
        return self._pipe

    @torch.no_grad()
    def generate(self, captions: list[str], seeds: list[int]) -> list[Image]:
        """See :meth:`BaseGenerator.generate`; drawn in batches of ``batch_size``.

        Raises:
            ValueError: if the numbers of captions and seeds differ.
        """
        check_seeds(captions, seeds)
        images: list[Image] = []
        for start in range(0, len(captions), self.batch_size):
            part = slice(start, start + self.batch_size)
            generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds[part]]
            # the pipeline has its own precision; a caller's autocast would change the pictures
            with torch.autocast(self.device.type, enabled=False):
                drawn = self.pipe(**self._arguments(list(captions[part]), generators))
            flagged = sum(bool(flag) for flag in getattr(drawn, "nsfw_content_detected", None) or [])
            if flagged:
                print_log(
                    f"the safety checker blackened {flagged} of {len(generators)} pictures",
                    logger="current",
                    level=logging.WARNING,
                )
            images.extend(image.convert("RGB") for image in drawn.images)
        return images

    def to(self, device: str | torch.device) -> DiffusersGenerator:
        """Moves the pipeline, or says where it will be loaded."""
        before = self.dtype if self._pipe is not None else None
        self.device = torch.device(device)
        if self._pipe is not None:
            if self.dtype != before:  # float16 was refused on the CPU, or has to be given up there
                self._pipe = None
            else:
                self._pipe.to(self.device)
        return self

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            print_log(message, logger="current", level=logging.WARNING)

    def _model_index(self) -> dict[str, Any]:
        """The pipeline's ``model_index.json``: which classes it is made of."""
        if self._index is None:
            from diffusers import DiffusionPipeline

            try:
                self._index = dict(
                    DiffusionPipeline.load_config(
                        self.model, revision=self.revision, local_files_only=self.local_files_only
                    )
                )
            except Exception as error:
                raise self._missing(error) from error
        return self._index

    def _missing(self, error: Exception) -> FileNotFoundError:
        if Path(self.model).exists():
            return FileNotFoundError(
                f"cannot load a diffusers pipeline from the folder {self.model!r}: {error}. It must be as "
                "pipeline.save_pretrained() or 'hf download' leave it, with model_index.json and all its parts"
            )
        return FileNotFoundError(
            f"cannot get the text-to-image model {self.model!r}: it is no folder here, and the Hugging Face hub "
            f"did not give it ({error}). Where there is a network: hf download {self.model} --local-dir weights/t2i ; "
            "then put that folder here and give its path as model"
        )

    def _load(self) -> Any:
        import diffusers
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline

        index = self._model_index()
        options: dict[str, Any] = {
            "revision": self.revision,
            "variant": self.variant,
            # renamed in diffusers 0.42 (tried there), which warns of the old name
            "dtype" if _version(diffusers.__version__) >= (0, 42) else "torch_dtype": self.dtype,
            "local_files_only": self.local_files_only,
        }
        if not self.safety_checker and "safety_checker" in index:
            options.update(safety_checker=None, requires_safety_checker=False)
        if find_spec("accelerate") is None:
            options["low_cpu_mem_usage"] = False  # the default warns for every part that there is no accelerate
        try:
            with _no_progress_bars():
                try:
                    pipe = AutoPipelineForText2Image.from_pretrained(self.model, **options)
                except ValueError as error:
                    if "AutoPipeline can't find" not in str(error):
                        raise
                    pipe = DiffusionPipeline.from_pretrained(self.model, **options)
        except (OSError, ValueError) as error:
            raise self._missing(error) from error
        self._check(pipe)
        if self._scheduler_class is not None:
            pipe.scheduler = self._scheduler_class.from_config(pipe.scheduler.config, **self.scheduler_options)
        pipe.set_progress_bar_config(disable=True)
        pipe.to(self.device)
        self._arrange(pipe)
        return pipe

    def _check(self, pipe: Any) -> None:
        """Refuses settings that the pipeline cannot take, before hours are spent on pictures that ignore them."""
        name, accepted = type(pipe).__name__, _parameters(pipe.__call__)
        given = {"negative_prompt": self.negative_prompt, "height": self.height, "width": self.width}
        unknown = [key for key, value in given.items() if value is not None and key not in accepted]
        if unknown:
            raise UserError(f"{name} takes no {', '.join(unknown)}; leave it out of the generator's settings")
        for key in self.call_options:  # some pipelines swallow what they do not know
            if key not in accepted or key in (*given, *_OWN):
                meant = " or ".join(near(key, sorted(accepted - {*given, *_OWN}), 3))
                hint = f"did you mean {meant}?" if meant else "it is another setting, or the generator's own."
                raise UserError(f"call_options names {key!r}, which {name} does not take here; {hint}")
        if self.negative_prompt is not None:
            setting = "true_cfg_scale" if "true_cfg_scale" in accepted else "guidance_scale"
            scale = self.call_options.get(setting, 1.0) if setting == "true_cfg_scale" else self.guidance_scale
            if scale <= 1:
                place = "call_options=dict(true_cfg_scale=...)" if setting == "true_cfg_scale" else "guidance_scale"
                raise UserError(f"negative_prompt does nothing in {name} unless {place} is above 1; set it, or drop it")
        if self.guidance_scale > 1 and "turbo" in Path(self.model).name.lower():
            self._say_once(
                f"{self.model} is called Turbo, and such models are trained to draw without guidance; "
                f"guidance_scale={self.guidance_scale} (0.0 is their setting)"
            )
        if self._scheduler_class is not None:
            wanted, own = self._scheduler_class.__name__, type(pipe.scheduler).__name__
            flow = wanted.startswith("FlowMatch") or bool(self.scheduler_options.get("use_flow_sigmas"))
            if flow != own.startswith("FlowMatch"):
                raise UserError(
                    f"the scheduler {wanted} does not go with {name}, whose own is {own}: one is for flow matching "
                    "models, the other for diffusion models"
                )

    def _arrange(self, pipe: Any) -> None:
        """Attention, VAE and compilation."""
        name = next((name for name in ("unet", "transformer", "prior") if getattr(pipe, name, None) is not None), None)
        denoiser = None if name is None else getattr(pipe, name)
        if self.attention == "slicing":
            if not hasattr(denoiser, "set_attention_slice"):
                raise UserError(f"attention='slicing' is for UNets; {type(pipe).__name__} has none")
            pipe.enable_attention_slicing()
        elif self.attention == "xformers":
            pipe.enable_xformers_memory_efficient_attention()
        elif self.attention == "sdpa" and name == "unet":  # transformers have no other
            from diffusers.models.attention_processor import AttnProcessor2_0

            denoiser.set_attn_processor(AttnProcessor2_0())
        if self.vae_slicing:
            pipe.vae.enable_slicing()
        if self.vae_tiling:
            pipe.vae.enable_tiling()
        if self.compile:
            denoiser.compile()  # in place, so that the pipeline finds the module's own attributes

    def _arguments(self, captions: list[str], generators: list[torch.Generator]) -> dict[str, Any]:
        """What the pipeline's call accepts of our settings."""
        wanted = {
            "prompt": captions,
            "generator": generators,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            # one for each caption: a single string does not fit a list of prompts
            "negative_prompt": None if self.negative_prompt is None else [self.negative_prompt] * len(captions),
            "height": self.height,
            "width": self.width,
            "output_type": "pil",
        }
        accepted = _parameters(self.pipe.__call__)
        passed = {name: value for name, value in wanted.items() if value is not None}
        for name in sorted(set(passed) - accepted):
            self._say_once(f"{type(self.pipe).__name__} takes no {name}; it is left out")
        return {**{name: value for name, value in passed.items() if name in accepted}, **self.call_options}


def _parameters(function: Callable) -> set[str]:
    return set(inspect.signature(function).parameters)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading a pipeline draws a bar for each of its parts; a log of many ranks is no place for them."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _find_scheduler(name: str) -> type:
    """The scheduler class of diffusers called ``name``."""
    import diffusers

    known = [found for found in dir(diffusers) if "Scheduler" in found and not found.startswith("Flax")]
    found = getattr(diffusers, name, None) if name in known else None
    if found is None or not hasattr(found, "from_config"):
        meant = " or ".join(near(name, known)) or f"one of {', '.join(known)}"
        raise UserError(f"diffusers has no scheduler {name!r}; did you mean {meant}?")
    return found
