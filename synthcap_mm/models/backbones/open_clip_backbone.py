"""Any model of open_clip as the frozen encoder."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from synthcap_mm.errors import UserError, listed, near
from synthcap_mm.exportable import JsonFile, PackedText, SafetensorsFile, data, refused
from synthcap_mm.files import read_json, temporary_folder
from synthcap_mm.models.backbones.base import BaseBackbone
from synthcap_mm.models.backbones.open_clip_export import check_description
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require
from synthcap_mm.store.recipes import settings_recipe
from synthcap_mm.torchscript import is_torchscript
from synthcap_mm.weights_files import not_finite, read_checkpoint

if TYPE_CHECKING:
    from PIL.Image import Image

#: Entries that only OpenAI's own state dicts have, beside the weights.
OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
_SCHEMAS = ("hf-hub:", "local-dir:")
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy", ".ckpt")
_PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode", "fill_color", "size")


@MODELS.register_module()
class OpenCLIPBackbone(BaseBackbone):
    """A CLIP-like model of open_clip: image tower, text tower, preprocessing and tokenizer.

    Weights come by tag (open_clip downloads them once) or from a local file, which
    is read without executing pickles. OpenAI's original archives (TorchScript) work
    as they are.

    **Activation.** CLIP's first models use QuickGELU; the same weights in a model
    built with GELU load without complaint and give worse features. open_clip only
    warns for a tag and says nothing for a file. Here a mismatch is an error. Of a tag
    open_clip's own table says what the weights were trained with (an
    entry there that merely lacks the mark for QuickGELU does not overrule a model
    that exists with QuickGELU only, such as ``roberta-ViT-B-32``). Of a local file
    ``quick_gelu`` says it, unless ``model_config`` describes the model or open_clip has it with one activation only.
    OpenAI's files were trained with QuickGELU, OpenCLIP's with what the name of their model says.

    Not run here, since no weights can be downloaded: real OpenAI and LAION weights
    by tag; SigLIP and Hugging Face text towers with their real tokenizers.

    Args:
        model_name (str): an open_clip model, also ``'hf-hub:org/repo'`` or
            ``'local-dir:folder'`` (these bring their weights; give
            ``pretrained=None``). With ``model_config`` any name.
            Defaults to 'ViT-B-32-quickgelu' (the paper's encoder, ViT-B/32).
        pretrained (str, optional): a tag of open_clip, or the path of a weights
            file (.pt, .bin, .safetensors, ...). Defaults to 'openai'.
        model_config (str | dict, optional): config of a model that open_clip does
            not know: path of a json file or a dict, in the form of open_clip's
            ``model_configs/*.json``, or of its ``open_clip_config.json`` (with
            ``model_cfg`` and ``preprocess_cfg``). Defaults to None.
        tokenizer (str, optional): path of a BPE merges file (``.txt.gz``), or a
            folder with a Hugging Face tokenizer. The context length is the
            model's. Defaults to None, the model's own.
        precision (str): one of 'fp32', 'fp16', 'bf16', 'pure_fp16', 'pure_bf16';
            features are float32 in any case. Defaults to 'fp32'.
        preprocess_cfg (dict, optional): overrides ``mean``, ``std``,
            ``interpolation`` or ``resize_mode`` of the image preprocessing of a
            local weights file. Defaults to None: what the config names, else what
            all of open_clip's weights of this model share, else CLIP's.
        quick_gelu (bool, optional): whether the weights were trained with
            QuickGELU; to be given with a weights file of a model that open_clip has with either activation. Defaults
            to None.
        cache_dir (str, optional): where downloads are kept. Defaults to None, the
            Hugging Face cache.

    Attributes:
        context_length (int): tokens that the text tower sees, start and end included.
        activation (str): 'quick_gelu' or 'gelu', by the modules that were built.

    Raises:
        UserError: unknown model name or tag; activation and weights do not match, or a file's activation is not said; a
            tokenizer that does not fit; weights that do not fit the model, are not finite, or hold pickled objects.
        FileNotFoundError: a local path is missing, or weights cannot be downloaded;
            the message says what to get and where to put it.
        ImportError: open_clip is missing.
    """

    not_in_recipe = ("cache_dir", "quick_gelu")  # the latter is compared only
    exportable = {
        "pretrained": SafetensorsFile(),
        "model_config": JsonFile(check_description),
        "tokenizer": PackedText(),
        **data("model_name", "precision", "quick_gelu"),
    }

    def __init__(
        self,
        model_name: str = "ViT-B-32-quickgelu",
        pretrained: str | None = "openai",
        model_config: str | dict | None = None,
        tokenizer: str | None = None,
        precision: Literal["fp32", "fp16", "bf16", "pure_fp16", "pure_bf16"] = "fp32",
        preprocess_cfg: dict | None = None,
        quick_gelu: bool | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        require("open_clip", purpose="OpenCLIPBackbone")
        self._precision = precision
        is_file = _is_file(model_name, pretrained, model_config)
        if is_file:
            config, preprocessing = _local_config(model_name, pretrained, model_config)
            preprocessing.update(preprocess_cfg or {})
            if quick_gelu is None and model_config is None and _other_activation(model_name) is not None:
                raise UserError(
                    f"OpenCLIPBackbone.quick_gelu has to say whether the weights {pretrained} were trained with "
                    "QuickGELU (OpenAI's were: True), since a model of the other activation loads them as well and "
                    "gives wrong features"
                )
            _check_activation(model_name, config, quick_gelu, f"quick_gelu={quick_gelu} says that the weights were")
            self._model, self._transform = _build_from_file(
                model_name, config, preprocessing, Path(pretrained), precision
            )
        else:
            if preprocess_cfg:
                raise UserError(
                    "OpenCLIPBackbone.preprocess_cfg is for a local weights file; open_clip knows the preprocessing of "
                    f"{model_name!r} with pretrained={pretrained!r}"
                )
            config = _known_config(model_name, cache_dir)
            listed = _tag_activation(model_name, pretrained, config)
            stated = f"quick_gelu={quick_gelu}" if quick_gelu is not None else "open_clip's table"
            expected = listed if quick_gelu is None else quick_gelu
            _check_activation(model_name, config, expected, f"{stated} says that the weights {pretrained!r} were")
            self._model, self._transform = _build_by_name(model_name, pretrained, precision, cache_dir)
        self._config = config
        self.embed_dim = int(config["embed_dim"])
        self.logit_scale = float(self._model.logit_scale.detach().float().exp())
        self.context_length = int(config["text_cfg"].get("context_length", 77))
        weights = Path(pretrained).name if is_file else pretrained
        self.name = f"{model_name}/{weights}" if weights else _without_path(model_name)
        own_config = config if model_config is not None else None
        self._tokenizer = _make_tokenizer(model_name, own_config, tokenizer, self.context_length, cache_dir)
        _check_tokenizer(self._tokenizer, config["text_cfg"], self.name)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by open_clip's names, as ``pretrained`` takes them in a ``.safetensors`` file."""
        return self._model.state_dict()

    def described(self) -> dict[str, Any]:
        """The model and its preprocessing, as ``model_config`` takes them."""
        preprocessing = getattr(self._model.visual, "preprocess_cfg", {})
        return {
            "model_cfg": self._config,
            "preprocess_cfg": {name: preprocessing[name] for name in _PREPROCESS_FIELDS if name in preprocessing},
        }

    @classmethod
    def from_export(cls, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """Refuses a model that is larger than its weights; see :func:`~synthcap_mm.exportable.read_component`."""
        for name in ("pretrained", "model_config"):
            if name not in settings:
                raise refused(f"{where}.{name}", None, "a file of the folder")
        name = settings.get("model_name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise refused(f"{where}.model_name", name, "a plain name")
        try:
            with torch.device("meta"):  # takes no memory
                model, _ = _unloaded(settings["model_config"]["model_cfg"], {}, "fp32", "meta")
        except Exception as error:  # open_clip asserts, or divides by numbers that do not go together
            raise UserError(f"{where}: open_clip cannot build the model: {type(error).__name__}: {error}") from error
        parts = (*model.parameters(), *model.buffers())
        if sum(part.numel() for part in parts) > Path(settings["pretrained"]).stat().st_size:
            raise UserError(f"{where}: the model is larger than its weights, {settings['pretrained']}")
        return settings

    @classmethod
    def pin(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments with the content of a model's folder (``'local-dir:…'``), for recipes.

        Args:
            arguments: of the constructor.
        """
        folder = arguments.get("model_name", "").partition("local-dir:")[2]
        return {**arguments, "model_name": settings_recipe(folder)} if folder else arguments

    @property
    def activation(self) -> str:
        """'quick_gelu' or 'gelu', by the modules that were built."""
        from open_clip.transformer import QuickGELU

        return "quick_gelu" if any(isinstance(module, QuickGELU) for module in self._model.modules()) else "gelu"

    def preprocess(self, image: Image) -> torch.Tensor:
        """Resize, crop and normalise as the model's evaluation transform does.

        Args:
            image: a picture of any size and mode.

        Returns:
            torch.Tensor: ``(3, H, W)`` float32 on the CPU.
        """
        return self._transform(image)

    @torch.no_grad()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """See :meth:`BaseBackbone.encode_image`. Runs outside autocast, in the precision it was built with."""
        from open_clip import get_input_dtype

        if len(pixels) == 0:
            return torch.empty((0, self.embed_dim), device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            pixels = pixels.to(self.device, get_input_dtype(self._precision) or torch.float32)
            return self.unit(self._model.encode_image(pixels))

    @torch.no_grad()
    def encode_grid(self, images: list[Image]) -> torch.Tensor:
        """See :meth:`BaseBackbone.encode_grid`: a ViT's last patch tokens, normed, or a ResNet's last map."""
        from open_clip import get_input_dtype

        with torch.autocast(self.device.type, enabled=False):
            pixels = torch.stack([self.preprocess(image) for image in images])
            pixels = pixels.to(self.device, get_input_dtype(self._precision) or torch.float32)
            found = self._model.visual.forward_intermediates(
                pixels, indices=1, normalize_intermediates=True, intermediates_only=True
            )
            return found["image_intermediates"][0].flatten(2).transpose(1, 2).float()

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """See :meth:`BaseBackbone.encode_text`. Runs outside autocast, in the precision it was built with."""
        if len(texts) == 0:
            return torch.empty((0, self.embed_dim), device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            tokens = self._tokenizer(list(texts), context_length=self.context_length).to(self.device)
            return self.unit(self._model.encode_text(tokens))

    def is_too_long(self, texts: list[str]) -> list[bool]:
        """Which sentences have more tokens (start and end included) than the text tower sees.

        Args:
            texts: B sentences.

        Returns:
            list[bool]: B answers.
        """
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, basic_clean, canonicalize_text

        tokenizer = self._tokenizer
        if isinstance(tokenizer, SimpleTokenizer):
            return [len(tokenizer.encode(text)) + 2 > self.context_length for text in texts]
        clips = isinstance(tokenizer, HFTokenizer) and tokenizer.tokenizer_mode == "clips"
        clean = (
            tokenizer.clean_fn if isinstance(tokenizer, HFTokenizer) else lambda t: canonicalize_text(basic_clean(t))
        )
        # 'clips' puts start, end and a class token around what it keeps
        added = 3 if clips else 0
        return [
            len(tokenizer.tokenizer(clean(text), add_special_tokens=not clips, verbose=False).input_ids) + added
            > self.context_length
            for text in texts
        ]


def _is_file(model_name: str, pretrained: str | None, model_config: str | dict | None) -> bool:
    """Whether ``pretrained`` is a weights file, after the combination of arguments has been checked."""
    if model_name.startswith(_SCHEMAS):
        if pretrained is not None or model_config is not None:
            raise UserError(
                f"model_name={model_name!r} brings its config and weights: give pretrained=None, no model_config"
            )
        return False
    if pretrained is None:
        raise UserError(f"pretrained=None would leave {model_name!r} with random weights; give a tag or a weights file")
    path = Path(pretrained)
    if path.is_file():
        return True
    looks_like_path = path.suffix in _WEIGHT_SUFFIXES or os.sep in pretrained or "/" in pretrained
    if looks_like_path or model_config is not None:
        raise FileNotFoundError(
            f"no weights file at pretrained={pretrained!r} (for model {model_name!r}); put the file there, "
            "or name one of open_clip's tags"
        )
    return False


def _without_path(model_name: str) -> str:
    schema, _, rest = model_name.partition(":")
    return f"{schema}:{Path(rest).name}" if schema == "local-dir" else model_name


def _known_config(model_name: str, cache_dir: str | None) -> dict:
    """open_clip's config of a model by name."""
    import open_clip

    if model_name.startswith("local-dir:"):
        folder = Path(model_name.removeprefix("local-dir:"))
        read = read_json(folder / "open_clip_config.json")
        return read.get("model_cfg", read)
    try:
        config = open_clip.get_model_config(model_name.replace("/", "-") if ":" not in model_name else model_name)
    except Exception as error:
        raise FileNotFoundError(
            f"cannot get the config of {model_name!r}: {error}. Without a network, download the repository's "
            "open_clip_config.json and weights into a folder and give model_name='local-dir:<folder>'"
        ) from error
    if config is None:
        raise UserError(
            f"open_clip has no model {model_name!r}; did you mean "
            f"{' or '.join(near(model_name, open_clip.list_models())) or 'one of open_clip.list_models()'}? "
            "A model of your own needs model_config=<path of its json>"
        )
    return config


def _local_config(model_name: str, pretrained: str, model_config: str | dict | None) -> tuple[dict, dict]:
    """Config and preprocessing of a model whose weights are a local file."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if model_config is None:
        config = _known_config(model_name, None)
        named: dict[str, Any] = (_config_beside(Path(pretrained)) or {}).get("preprocess_cfg", {})
        if not named:
            # open_clip falls back to CLIP's mean and deviation here, which is wrong for every SigLIP
            known = [
                {field: cfg[field] for field in _PREPROCESS_FIELDS if field in cfg}
                for cfg in (get_pretrained_cfg(model_name, tag) for tag in list_pretrained_tags_by_model(model_name))
            ]
            named = known[0] if known and all(cfg == known[0] for cfg in known) else {}
    else:
        read = model_config if isinstance(model_config, dict) else read_json(model_config)
        config, named = dict(read.get("model_cfg", read)), read.get("preprocess_cfg", {})
    # through json: makes a ConfigDict a plain dict, and a copy that open_clip may change
    return json.loads(json.dumps(config)), json.loads(json.dumps(named))


def _config_beside(weights: Path) -> dict | None:
    path = weights.parent / "open_clip_config.json"
    return read_json(path) if path.is_file() else None


def _other_activation(model_name: str) -> str | None:
    """The model of open_clip that differs in the activation only, or ``None``."""
    import open_clip

    plain = model_name.removesuffix("-quickgelu")
    other = f"{plain}-quickgelu" if plain == model_name else plain
    return other if other in open_clip.list_models() else None


def _tag_activation(model_name: str, tag: str | None, config: dict) -> bool | None:
    """Whether a tag's weights were trained with QuickGELU; ``None`` is not known."""
    import open_clip

    if tag is None:  # hf-hub: and local-dir: bring the config with the weights
        return None
    cfg = open_clip.get_pretrained_cfg(model_name.replace("/", "-"), tag)
    if not cfg:
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise UserError(
            f"open_clip has no weights {tag!r} for {model_name!r}, and there is no such file; its tags are: "
            f"{', '.join(tags) or 'none, so give the path of a weights file'}"
        )
    if cfg.get("quick_gelu", False):
        return True
    # A model that exists with QuickGELU only need not be marked in open_clip's table.
    return None if config.get("quick_gelu", False) and _other_activation(model_name) is None else False


def _check_activation(model_name: str, config: dict, expected: bool | None, told_by: str) -> None:
    """Refuses a model whose activation is not the one the weights were trained with."""
    built = bool(config.get("quick_gelu", False))
    if expected is None or expected == built:
        return
    names = {True: "QuickGELU", False: "GELU"}
    other = _other_activation(model_name)
    remedy = (
        f"use model_name={other!r}" if other else f"set 'quick_gelu': {str(expected).lower()} in the model's config"
    )
    raise UserError(
        f"model {model_name!r} is built with {names[built]}, but {told_by} trained with {names[expected]}; "
        f"the features would be wrong: {remedy}"
    )


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip calls an unloaded model random, and gives the root logger a handler; neither should stay."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.setLevel(logging.CRITICAL)
    root.addHandler(logging.NullHandler())
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _build_by_name(
    model_name: str, tag: str | None, precision: str, cache_dir: str | None
) -> tuple[torch.nn.Module, Callable]:
    """Model and evaluation transform with the weights of a tag."""
    import open_clip

    try:
        with _quiet_root_logger():
            return open_clip.create_model_from_pretrained(
                model_name, pretrained=tag, precision=precision, cache_dir=cache_dir, weights_only=True
            )
    except Exception as error:
        cfg = open_clip.get_pretrained_cfg(model_name.replace("/", "-"), tag) if tag else {}
        repository = "/".join(cfg.get("hf_hub", "").split("/")[:2]) or model_name.partition(":")[2]
        address = f" (or {cfg['url']})" if cfg.get("url") else ""
        raise FileNotFoundError(
            f"cannot load the weights of {model_name!r}{f' with pretrained={tag!r}' if tag else ''}: {error}. "
            f"They are in the Hugging Face repository {repository!r}{address}. Without a network, fetch them elsewhere "
            f"(hf download {repository}), and give the path of the .safetensors file as pretrained "
            "or copy the cache into cache_dir"
        ) from error


def _build_from_file(
    model_name: str, config: dict, preprocessing: dict, weights: Path, precision: str
) -> tuple[torch.nn.Module, Callable]:
    """Model and evaluation transform with the weights of a local file."""
    import open_clip

    model, transform = _unloaded(config, preprocessing, precision, "cpu")
    with temporary_folder() as folder:
        source = _plain_state(weights, model, folder)
        try:
            open_clip.load_checkpoint(model, str(source), strict=True, weights_only=True)
        except Exception as error:  # of torch, or of open_clip, for names and shapes that it does not expect
            raise UserError(f"the weights file {weights} does not fit the model {model_name!r}: {error}") from error
    if bad := not_finite(dict(model.named_parameters())):
        raise UserError(f"{len(bad)} weights of {weights} are not finite ({listed(bad, 3)})")
    return model, transform


def _unloaded(config: dict, preprocessing: dict, precision: str, device: str) -> tuple[torch.nn.Module, Callable]:
    """Model and evaluation transform without weights."""
    import open_clip

    with temporary_folder() as folder:
        # a folder of its own: no other way gives open_clip a config without adding to its global list of models
        described = {"model_cfg": config, "preprocess_cfg": preprocessing}
        (folder / "open_clip_config.json").write_text(json.dumps(described), encoding="utf-8")
        with _quiet_root_logger():
            model, _, transform = open_clip.create_model_and_transforms(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, precision=precision, device=device
            )
    return model, transform


def _plain_state(weights: Path, model: torch.nn.Module, folder: Path) -> Path:
    """A file that open_clip loads: ``weights`` itself, or what is in OpenAI's original form as a plain state dict."""
    if weights.suffix in (".npz", ".npy"):  # of arrays only; open_clip knows their names
        return weights
    state = read_checkpoint(weights, "weights file")
    state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise UserError(f"the weights file {weights} has no weights by name (state_dict)")
    if not is_torchscript(weights) and not any(key in state for key in OPENAI_KEYS):
        return weights
    target = folder / "weights.pt"
    # TorchScript makes every buffer persistent, the text tower's mask too
    left_out = {*OPENAI_KEYS, *(name for name, _ in model.named_buffers())} - set(model.state_dict())
    torch.save({key: value for key, value in state.items() if key not in left_out}, target)
    return target


def _make_tokenizer(
    model_name: str, own_config: dict | None, tokenizer: str | None, context_length: int, cache_dir: str | None
) -> Callable:
    """The tokenizer named by path, else the model's own."""
    import open_clip
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    if tokenizer is not None:
        path = Path(tokenizer)
        if path.is_dir():
            return HFTokenizer(str(path), context_length=context_length)
        return SimpleTokenizer(bpe_path=str(path), context_length=context_length)
    if own_config is None:
        return open_clip.get_tokenizer(model_name, context_length=context_length, cache_dir=cache_dir)
    text_cfg = own_config["text_cfg"]
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    if text_cfg.get("hf_tokenizer_name"):
        return HFTokenizer(
            text_cfg["hf_tokenizer_name"],
            context_length=context_length,
            cache_dir=cache_dir,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **options,
        )
    return SimpleTokenizer(context_length=context_length, **options)


def _check_tokenizer(tokenizer: Callable, text_cfg: dict, name: str) -> None:
    """Refuses a BPE tokenizer whose ids the text tower would misread."""
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer) or text_cfg.get("hf_model_name"):
        return
    largest = max(tokenizer.encoder.values())
    size = int(text_cfg.get("vocab_size", 49408))
    if largest >= size:
        raise UserError(
            f"the tokenizer has {largest + 1} tokens, but the text tower of {name!r} only {size}; "
            "give the tokenizer that the weights were trained with"
        )
    pooling = text_cfg.get("pool_type", "argmax")
    end = tokenizer.eot_token_id
    # 'argmax' pools at the largest id and 'eos' at eos_id: both mean the end token
    if (pooling == "argmax" and end != largest) or (pooling == "eos" and end != int(text_cfg.get("eos_id", 2))):
        raise UserError(
            f"the tokenizer's end token is {end}, which the text tower of {name!r} (pool_type {pooling!r}) "
            "does not pool at"
        )
