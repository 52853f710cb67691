"""Photos to captions: a config and a checkpoint, or an exported folder, in use."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope
from PIL.Image import Image

from synthcap_mm.background import map_ahead, threads
from synthcap_mm.engine.identity_hook import META
from synthcap_mm.engine.launching import read_config
from synthcap_mm.errors import UserError, listed
from synthcap_mm.images import MAX_PIXELS
from synthcap_mm.inference.export_folder import read_export
from synthcap_mm.inference.generation import generation_options
from synthcap_mm.inference.inputs import PhotoInput, iter_inputs, load_input
from synthcap_mm.inference.results import CaptionResult
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import INFERENCERS, MODELS, SCOPE, VISUALIZERS
from synthcap_mm.structures import CaptionSample, Tag, group_id
from synthcap_mm.synthesis.encoding import build_tagger, default_device
from synthcap_mm.synthesis.image_reader import ImageReader
from synthcap_mm.weights_files import read_checkpoint, state_dict_of

DTYPES = ("float32", "bfloat16", "float16")


def _batches(items: Iterable[PhotoInput], size: int) -> Iterator[list[PhotoInput]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


@INFERENCERS.register_module()
class CaptionInferencer(BaseInferencer):
    """Captions photos with a trained captioner, in batches, while the next ones are decoded, encoded and tagged.

    Images are read as ``tools/encode_images.py`` reads photos, so a captioner sees what it
    was evaluated on. Only the needed parts are built: no encoder for ready
    features, no tag provider for a captioner without a prompt of tags.

    Args:
        model: path or name of a config, a config, or the folder that ``tools/export.py`` wrote.
        weights: checkpoint of ``tools/train.py`` (read without executing anything in it); an
            exported folder has its own. Default ``None``.
        device: torch device. Default: the current GPU, or the CPU.
        dtype: precision of the decoder and the necks, but not of the memory: ``'float32'``, ``'bfloat16'`` or
            ``'float16'`` (autocast; weights stay float32). The encoder's is its config's. Default ``'float32'``.
        encoder: config of a backbone, instead of the config's ``model.backbone`` or
            ``synthesis.encoder``. It must be the one that the captioner was trained with. Default ``None``.
        other_encoders: configs of the encoders beside it by name, instead of the config's ``model.other_backbones`` or
            ``synthesis.other_encoders`` of those names. Default ``None``.
        tag_provider: config of a tag provider, instead of the config's ``test_dataloader.dataset.tags`` or
            ``synthesis.tag_provider``. Default ``None``.
        channel_order: of arrays with colours: ``'bgr'``, as OpenCV and mmcv read them, or
            ``'rgb'``. Tensors are RGB. Default ``'bgr'``.
        workers: threads that decode (or fetch) images. Default 2.
        max_pixels: larger images are refused. Default 179 million.
        allow_private_redirects: see :func:`~synthcap_mm.inference.fetching.fetch`. Default ``False``.
        scope: MMEngine's default scope while the model is built. Default ``'synthcap_mm'``.
        show_progress: MMEngine's bar in ``__call__``. Default ``False``.

    Raises:
        FileNotFoundError: if config, checkpoint, store or files of the encoder are missing.
        UserError: if an argument is out of its range; if weights are missing, or given beside an export; if
            the folder is no export that can be used; if the checkpoint is another captioner's, or was trained with
            another tokenizer or encoder.
    """

    preprocess_kwargs = {"errors"}
    forward_kwargs = {
        "num_beams", "n_best", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "sample",
        "top_p", "temperature", "seed", "rerank", "use_cache", "explain", "top_memory",
    }  # fmt: skip
    visualize_kwargs = {"draw", "out_dir", "show"}
    postprocess_kwargs = set()

    def __init__(
        self,
        model: str | os.PathLike[str] | Config | dict,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        encoder: dict | None = None,
        tag_provider: dict | None = None,
        channel_order: str = "bgr",
        workers: int = 2,
        max_pixels: int = MAX_PIXELS,
        allow_private_redirects: bool = False,
        scope: str = SCOPE,
        show_progress: bool = False,
        other_encoders: dict[str, dict] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        if channel_order not in ("bgr", "rgb"):
            raise UserError(f"channel_order is 'bgr' or 'rgb', not {channel_order!r}")
        self.dtype = getattr(torch, dtype)
        self.channel_order, self.workers, self.max_pixels = channel_order, workers, max_pixels
        self.allow_private_redirects = allow_private_redirects
        self.device = torch.device(device) if device else default_device()
        self.encoder_cfg, self.tag_provider_cfg = encoder, tag_provider
        self.other_encoders_cfg: dict[str, dict] = dict(other_encoders or {})
        self._reader: ImageReader | None = None
        self._building = threading.Lock()
        self._export = None
        cfg = self._find(model, weights)
        super().__init__(cfg, None if weights is None else str(weights), str(self.device), scope, show_progress)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> CaptionInferencer:
        """From a folder that ``tools/export.py`` wrote; nothing of it is executed.

        Args:
            folder: the folder.
            **options: of the class.

        Raises:
            UserError: if it is no such folder, is damaged, or was made by a newer version.
        """
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}")
        return cls(folder, **options)

    # ---- building
    def _find(self, model: Any, weights: Any) -> Config:
        """The config of ``model``; an exported folder is opened."""
        is_path = isinstance(model, (str, os.PathLike))
        if is_path and Path(model).is_dir():
            if weights is not None:
                raise UserError(f"the export {model} has its own weights; leave {weights} out")
            self._export = read_export(model)
            return Config({"model": self._export.model, "export": str(model)})
        if weights is None:
            if is_path and Path(model).suffix != ".py":
                raise UserError(f"there is no folder {model}")
            raise UserError("weights are missing: name a checkpoint of tools/train.py (an exported folder has its own)")
        if is_path:
            return read_config(model)
        return model if isinstance(model, Config) else Config(dict(model))

    def _choose_parts(self, cfg: Config) -> None:
        """The encoders and the tag provider: the caller's, else the export's, else the config's."""
        if self._export is not None:
            encoder, tag_provider = self._export.encoder, self._export.tag_provider
            others = self._export.other_encoders
        else:
            synthesis = cfg.get("synthesis", {})
            encoder = cfg.model.get("backbone") or synthesis.get("encoder")
            others = cfg.model.get("other_backbones") or synthesis.get("other_encoders") or {}
            # A test may tag photos by another provider than drawings.
            tested_with = cfg.get("test_dataloader", {}).get("dataset", {}).get("tags")
            tag_provider = tested_with or synthesis.get("tag_provider")
        self.encoder_cfg = self.encoder_cfg or encoder
        self.other_encoders_cfg = {**others, **self.other_encoders_cfg}
        self.tag_provider_cfg = self.tag_provider_cfg or tag_provider

    def _init_model(self, cfg: Config, weights: str | None, device: str = "cpu") -> torch.nn.Module:
        self._choose_parts(cfg)
        settings = ConfigDict(cfg.model)
        if self.encoder_cfg is not None:
            settings.backbone = self.encoder_cfg
        if self.other_encoders_cfg:
            settings.other_backbones = self.other_encoders_cfg
        with DefaultScope.overwrite_default_scope(self.scope):
            if self._export is not None:
                model = self._export.build(settings)
            else:
                model = MODELS.build(settings)
                checkpoint = read_checkpoint(weights)
                model.check_identity((checkpoint.get("meta") or {}).get(META))
                self._load_weights_to_model(model, state_dict_of(checkpoint, weights), cfg)
            model.cfg = cfg
        return model.to(self.device).eval()

    def _load_weights_to_model(self, model: torch.nn.Module, checkpoint: dict | None, cfg: Any) -> None:
        try:
            found = model.load_state_dict(checkpoint, strict=False)
        except RuntimeError as error:
            raise UserError(f"the checkpoint is not of this config's captioner: {error}") from error
        missing = [name for name in found.missing_keys if not name.startswith("data_preprocessor")]
        if missing or found.unexpected_keys:
            raise UserError(
                f"the checkpoint is not of this config's captioner: {len(missing)} weights are missing "
                f"({listed(missing, 3)}), {len(found.unexpected_keys)} are unknown ({listed(found.unexpected_keys, 3)})"
            )

    def _init_pipeline(self, cfg: Config) -> Callable[[PhotoInput], Any]:
        return lambda item: load_input(item, self.channel_order, self.max_pixels, self.allow_private_redirects)

    def _init_collate(self, cfg: Config) -> Callable[[list], list]:
        return list  # the captioner's preprocessor collates

    def _init_visualizer(self, cfg: Config) -> None:
        return None  # built when something is drawn

    @property
    def uses_tags(self) -> bool:
        """Whether the captioner's prompt is made of tags."""
        return self.model.data_preprocessor.prompt is not None

    @property
    def reader(self) -> ImageReader:
        """Encoders and tag provider, built when the first image comes.

        Raises:
            UserError: if the config does not name an encoder that is needed, or no tag provider where the captioner
                needs tags.
        """
        with self._building:
            if self._reader is None:
                self._reader = self._build_reader()
            return self._reader

    def _build_reader(self) -> ImageReader:
        if self.encoder_cfg is None:
            raise UserError(
                "images need an encoder, and the config names none (model.backbone or synthesis.encoder)"
                + self._left_out("encoder")
            )
        for name in sorted(self.model.encoders_needed - {*self.other_encoders_cfg}):
            raise UserError(
                f"images need the encoder {name!r} too, and the config does not name it (synthesis.other_encoders)"
                + self._left_out("other_encoders", f"dict({name}=dict(type=...))")
            )
        if self.uses_tags and self.tag_provider_cfg is None:
            raise UserError(
                "this captioner was trained with a prompt of tags, and the config names no tag provider "
                "(synthesis.tag_provider)" + self._left_out("tag_provider")
            )
        explained = contextlib.nullcontext() if self._export is None else self._export.faults_explained()
        with DefaultScope.overwrite_default_scope(self.scope), explained:
            encoder = self.model.backbone
            for name in sorted(self.model.encoders_needed):
                self.model.backbone_of(name)
            tagger = build_tagger(self.tag_provider_cfg, encoder, self.device) if self.uses_tags else None
            reader = ImageReader(encoder, tagger, self.model.backbone_of)
        if self.device.type == "cuda":  # another thread may use them on another stream
            torch.cuda.synchronize(self.device)
        return reader

    def _left_out(self, part: str, example: str = "dict(type=...)") -> str:
        return f": give {part}={example}" if self._export is None else self._export.left_out(part, example)

    # ---- the stages
    def _load(self, item: PhotoInput, errors: str) -> CaptionResult:
        """An input with its image or feature, or the error."""
        try:
            loaded = self.pipeline(item)
        except (ValueError, OSError) as error:
            if errors == "raise":
                raise
            return CaptionResult(item.key, error=str(error))
        if isinstance(loaded, CaptionSample):
            return CaptionResult(item.key, loaded)
        fields = {"image": loaded} if isinstance(loaded, Image) else {"feat": loaded}
        return CaptionResult(item.key, CaptionSample(group_id(item.key), item.key, "real", **fields))

    @torch.no_grad()
    def read(self, images: Sequence[Image]) -> tuple[dict[str | None, torch.Tensor], list[list[Tag]]]:
        """Features and tags of images.

        Args:
            images: N images.

        Returns:
            Features ``(N, D)`` float32 on the CPU, by the encoder's name (``None``: the captioner's own), and N lists
            of tags, empty for a captioner without a prompt of tags.
        """
        reader = self.reader
        feats = {None: reader.encoder.encode_pil(list(images)), **self.model.encode_by_others(images)}
        tags = reader.tags(list(images), feats)
        return {name: found.float().cpu() for name, found in feats.items()}, tags

    def _encode(self, batch: list[CaptionResult], errors: str) -> list[CaptionResult]:
        """The batch, with features and tags in place of images."""
        samples = [result.sample for result in batch if result.sample is not None and result.sample.feat is None]
        if samples:
            feats, tags = self.read([sample.image for sample in samples])
            for row, sample in enumerate(samples):
                sample.other_feats = {name: found[row] for name, found in feats.items() if name is not None}
                sample.feat, sample.tags, sample.image = feats[None][row], tags[row], None
        return [self._finite(result, errors) for result in batch]

    @staticmethod
    def _finite(result: CaptionResult, errors: str) -> CaptionResult:
        sample = result.sample
        if sample is None or all(feat.isfinite().all() for feat in (sample.feat, *sample.other_feats.values())):
            return result
        error = f"the encoder's feature of {result.key} is not finite"
        if errors == "raise":
            raise ValueError(error)
        return CaptionResult(result.key, error=error)

    # ---- MMEngine's contract
    def _inputs_to_list(self, inputs: Any) -> list[PhotoInput]:
        return list(iter_inputs(inputs))

    def preprocess(self, inputs: Any, batch_size: int = 32, errors: str = "raise") -> Iterator[list[CaptionResult]]:
        """Batches of inputs, decoded, encoded and tagged in threads of their own, a few batches ahead.

        Args:
            inputs: see :func:`~synthcap_mm.inference.inputs.iter_inputs`.
            batch_size: inputs at once. Default 32.
            errors: ``'raise'`` for an input that cannot be read, or ``'report'`` it in its result. Default ``'raise'``.

        Raises:
            ValueError, OSError: see ``errors``.
            UserError: for a wrong ``batch_size`` or ``errors``.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if errors not in ("raise", "report"):
            raise UserError(f"errors is 'raise' or 'report', not {errors!r}")
        with threads(self.workers, "synthcap decode") as pool:

            def load(batch: list[PhotoInput]) -> list[CaptionResult]:
                return list(pool.map(lambda item: self._load(item, errors), batch))

            loaded = map_ahead(load, _batches(iter_inputs(inputs), batch_size), depth=1)
            yield from map_ahead(lambda batch: self._encode(batch, errors), loaded, depth=1, device=self.device)

    @torch.no_grad()
    def forward(
        self, inputs: list[CaptionResult], explain: bool = False, top_memory: int = 5, **options: Any
    ) -> list[CaptionResult]:
        """Write captions for a batch of :meth:`preprocess`.

        Args:
            inputs: the batch; filled in.
            explain: also find the captions of the memory that carried most weight, and the CLIPScore of
                the caption. Default ``False``.
            top_memory: how many captions of the memory. Default 5.
            **options: of :func:`~synthcap_mm.inference.generation.generation_options`.

        Returns:
            The same results.
        """
        readable = [result for result in inputs if result.sample is not None]
        generation = generation_options(self.model, keys=[result.key for result in readable], **options)
        if not readable:
            return inputs
        samples = [result.sample for result in readable]
        self._check_width(samples)
        data = self.model.data_preprocessor(samples, False)
        with self._precision():
            self.model(**data, mode="predict", generation=generation)
        if explain:
            self._explain(readable, data["prefix"], top_memory)
        return inputs

    def _check_width(self, samples: Sequence[CaptionSample]) -> None:
        width = len(samples[0].feat if self.model.encoder is None else self.model.encoder["image"])
        for sample in samples:
            if sample.feat.shape != (width,):
                raise ValueError(
                    f"the feature of {sample.key} has the shape {tuple(sample.feat.shape)}; the captioner's encoder "
                    f"makes ({width},)"
                )

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _explain(self, results: list[CaptionResult], prefix: Any, k: int) -> None:
        weighed = self.model.memory_weights(prefix, k)
        if weighed is not None:
            for result, weights, rows in zip(results, *(part.tolist() for part in weighed)):
                result.memory = [(self.model.memory.text(row), weight) for row, weight in zip(rows, weights)]
        if self.encoder_cfg is not None:
            scores = self.model.clip_scores(prefix.feats, [result.sample.pred_caption for result in results])
            for result, score in zip(results, scores):
                result.clip_score = float(score)

    def visualize(
        self,
        inputs: list[PhotoInput],
        preds: list[CaptionResult],
        draw: bool = False,
        out_dir: str | os.PathLike[str] | None = None,
        show: bool = False,
    ) -> list[np.ndarray | None] | None:
        """One drawing an input: the photo with boxes, captions, memory captions and scores.

        Args:
            inputs: what was captioned; photos are read once more.
            preds: the results, best with ``explain=True``.
            draw: draw, and return the drawings. Default ``False``, unless ``out_dir`` or ``show`` says so.
            out_dir: folder to write them to, ``00000_NAME.png``. Default ``None``.
            show: open a window with each. Default ``False``.

        Returns:
            ``(H, W, 3)`` uint8 RGB each; ``None`` for inputs that are features or cannot be read; ``None`` instead of
            the list if nothing was to be drawn.
        """
        if not (draw or out_dir or show):
            return None
        if self.visualizer is None:
            with DefaultScope.overwrite_default_scope(self.scope):
                self.visualizer = VISUALIZERS.build({"type": "CaptionVisualizer", "name": f"captions-{id(self)}"})
        drawn: list[np.ndarray | None] = []
        for i, (item, result) in enumerate(zip(inputs, preds)):
            photo = None if result.sample is None else self.pipeline(item)
            if not isinstance(photo, Image):
                drawn.append(None)
                continue
            file = None if out_dir is None else Path(out_dir) / f"{i:05d}_{Path(result.key).stem}.png"
            drawn.append(self.visualizer.add_datasample(result.key, photo, result, show=show, out_file=file))
        return drawn

    def postprocess(
        self, preds: list[CaptionResult], visualization: Any, return_datasamples: bool = False
    ) -> dict[str, Any]:
        """What ``__call__`` returns.

        Args:
            preds: the results.
            visualization: of :meth:`visualize`.
            return_datasamples: give the results as :class:`CaptionResult`, not as plain values. Default ``False``.

        Returns:
            ``predictions``, one for each input in order, and ``visualization``.
        """
        if not return_datasamples:
            preds = [result.to_dict() for result in preds]
        return {"predictions": preds, "visualization": visualization}

    def __call__(
        self, inputs: Any, return_datasamples: bool = False, batch_size: int = 32, **kwargs: Any
    ) -> dict[str, Any]:
        """Caption all inputs.

        Args:
            inputs: see :func:`~synthcap_mm.inference.inputs.iter_inputs`.
            return_datasamples: see :meth:`postprocess`. Default ``False``.
            batch_size: inputs at once. Default 32.
            **kwargs: of :meth:`preprocess`, :meth:`forward` (and so of
                :func:`~synthcap_mm.inference.generation.generation_options`) and :meth:`visualize`.

        Returns:
            dict: ``predictions``: for each input in order ``image`` (its key), ``caption``, ``captions`` (the best
            first, each with ``caption``, ``logprob``, the summed log-probability of its tokens, and ``score``, what
            it was ranked by), ``prompt_tags``; with ``explain`` also ``tags``, ``memory`` and ``clip_score``; with
            ``errors='report'`` ``image`` and ``error`` where it cannot be read. ``visualization``: see
            :meth:`visualize`.
        """
        self._dispatch_kwargs(**kwargs)  # unknown options are refused before any work
        return super().__call__(inputs, return_datasamples, batch_size, **kwargs)

    def stream(
        self, inputs: Any, batch_size: int = 32, errors: str = "raise", **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Predictions as they come, one for each input in order; any number, since none is kept.

        Args:
            inputs: see :func:`~synthcap_mm.inference.inputs.iter_inputs`; an iterator is read as it is needed.
            batch_size: inputs at once. Default 32.
            errors: see :meth:`preprocess`. Default ``'raise'``.
            **options: of :meth:`forward`.

        Yields:
            dict: as in ``predictions`` of :meth:`__call__`.
        """
        unknown = sorted(set(options) - self.forward_kwargs)
        if unknown:
            raise UserError(f"unknown options {', '.join(unknown)}; known: {', '.join(sorted(self.forward_kwargs))}")
        with contextlib.closing(self.preprocess(inputs, batch_size, errors)) as batches:
            for batch in batches:
                yield from (result.to_dict() for result in self.forward(batch, **options))

    # ---- the memory
    def encode_memory(self, sentences: Sequence[str]) -> CaptionMemory:
        """Sentences as a memory, for :meth:`use_memory`.

        Args:
            sentences: the captions of another domain ("TT", target text); at least one.

        Raises:
            UserError: if there is no sentence, one is empty, or the captioner has no memory.
        """
        if not self.model.remembering:
            raise UserError("this captioner has no memory (no TextMemoryProjection or the like among its necks)")
        others = {name: self.model.backbone_of(name) for name in sorted(self.model.encoders_needed)}
        return CaptionMemory.from_sentences(sentences, self.reader.encoder, others)

    @contextlib.contextmanager
    def use_memory(self, sentences: Sequence[str], memory: CaptionMemory | None = None) -> Iterator[None]:
        """While in the context, the memory is these sentences; afterwards it is what it was.

        Args:
            sentences: the captions.
            memory: of :meth:`encode_memory`. Default ``None``: made here.

        Raises:
            UserError: see :meth:`encode_memory`.
        """
        with self.model.swapped_memory(memory or self.encode_memory(sentences)):
            yield
