"""Photos to captions: a config and a checkpoint, or an exported folder, in use."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope
from PIL.Image import Image

from synthcap_mm.apis.launching import read_config
from synthcap_mm.checkpoint_files import read_checkpoint
from synthcap_mm.images import MAX_PIXELS
from synthcap_mm.inference.export_folder import is_export, read_export
from synthcap_mm.inference.inputs import PhotoInput, iter_inputs, load_input
from synthcap_mm.pairs.background import map_ahead
from synthcap_mm.pairs.factory import build_tag_provider, default_device
from synthcap_mm.pairs.image_reader import ImageReader
from synthcap_mm.registry import INFERENCERS, MODELS, SCOPE, VISUALIZERS
from synthcap_mm.stores import Store
from synthcap_mm.structures import CaptionSample, Tag, group_id

DTYPES = ("float32", "bfloat16", "float16")
_TEXT_BATCH = 256  # sentences of a new memory encoded at once


@dataclass(slots=True)
class CaptionResult:
    """What is written for one input.

    Attributes:
        key: the input, see :class:`~synthcap_mm.inference.inputs.PhotoInput`.
        sample: with its ``pred_*`` fields filled; ``None`` if the input cannot be read.
        error: why it cannot be read, a sentence; else ``None``.
        memory: with ``explain``: captions of the memory with their weights, largest first; ``None`` where the
            captioner has no memory.
        clip_score: with ``explain``: CLIPScore of the best caption.
    """

    key: str
    sample: CaptionSample | None = None
    error: str | None = None
    memory: list[tuple[str, float]] | None = None
    clip_score: float | None = None

    def to_dict(self, explain: bool = False) -> dict[str, Any]:
        """Plain values only, for json.

        Args:
            explain: with ``memory``, ``clip_score`` and all tags. Default ``False``.
        """
        if self.sample is None:
            return {"image": self.key, "error": self.error}
        sample = self.sample
        rows = zip(sample.pred_captions, sample.pred_logprobs, sample.pred_scores)
        plain: dict[str, Any] = {
            "image": self.key,
            "caption": sample.pred_caption,
            "captions": [{"caption": c, "logprob": float(p), "score": float(s)} for c, p, s in rows],
            "prompt_tags": list(sample.pred_tags or []),
        }
        if explain:
            memory = None if self.memory is None else [{"caption": c, "weight": w} for c, w in self.memory]
            plain |= {
                "tags": [asdict(tag) for tag in sample.tags],
                "memory": memory,
                "clip_score": self.clip_score,
            }
        return plain


def _batches(items: Iterable[PhotoInput], size: int) -> Iterator[list[PhotoInput]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


@INFERENCERS.register_module()
class CaptionInferencer(BaseInferencer):
    """Captions photos with a trained captioner, in batches, while the next ones are decoded, encoded and tagged.

    Images are read as ``tools/encode_images.py`` reads photos, so a captioner sees what it
    was evaluated on. What a run does not need is not built: no encoder for ready
    features, no tag provider for a captioner without a prompt of tags.

    Args:
        model: path or name of a config, a config, or the folder that ``tools/export.py`` wrote.
        weights: checkpoint of ``tools/train.py`` (read without executing anything in it); an
            exported folder has its own. Default ``None``.
        device: torch device. Default: the current GPU, or the CPU.
        dtype: precision of the decoder and what is before it but the memory: ``'float32'``, ``'bfloat16'`` or
            ``'float16'`` (autocast; weights stay float32). The encoder's is its config's. Default ``'float32'``.
        encoder: config of a backbone, instead of the config's ``model.backbone`` or
            ``synthesis.encoder``. It must be the one that the captioner was trained with. Default ``None``.
        tag_provider: config of a tag provider, instead of the config's ``test_dataloader.dataset.tags`` or
            ``synthesis.tag_provider``. Default ``None``.
        channel_order: of arrays with colours: ``'bgr'``, as OpenCV and mmcv read them, or
            ``'rgb'``. Tensors are RGB, PIL images say it themselves. Default ``'bgr'``.
        workers: threads that decode (or fetch) pictures. Default 2.
        max_pixels: larger pictures are refused. Default 179 million.
        scope: MMEngine's default scope while the model is built. Default ``'synthcap_mm'``.
        show_progress: MMEngine's bar in ``__call__``. Default ``False``.

    Raises:
        FileNotFoundError: if config, checkpoint, store or files of the encoder are missing.
        ValueError: if an argument is out of its range; if weights are missing, or given beside an export.
        ExportError: if the folder is no export that can be used; the message says why.
        RuntimeError: if the checkpoint was trained with another tokenizer or encoder.
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
        scope: str = SCOPE,
        show_progress: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
        if channel_order not in ("bgr", "rgb"):
            raise ValueError(f"channel_order is 'bgr' or 'rgb', not {channel_order!r}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.dtype = getattr(torch, dtype)
        self.channel_order, self.workers, self.max_pixels = channel_order, workers, max_pixels
        self.device = torch.device(device) if device else default_device()
        self._encoder_cfg, self._tag_provider_cfg = encoder, tag_provider
        self._reader: ImageReader | None = None
        self._building = threading.Lock()
        self._memory_texts: Callable[[int], str] | None = None
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
            ExportError: if it is no such folder, is damaged, or was made by a newer version.
        """
        if not is_export(folder):
            read_export(folder)  # says what is wrong
        return cls(folder, **options)

    # ---- building
    def _find(self, model: Any, weights: Any) -> Config:
        if isinstance(model, (str, os.PathLike)):
            if Path(model).is_dir():
                if weights is not None:
                    raise ValueError(f"the export {model} has its own weights; leave {weights} out")
                self._export = read_export(model)
                return Config({"model": self._export.model, "export": str(model)})
            cfg = read_config(model)
        elif isinstance(model, (Config, dict)):
            cfg = model if isinstance(model, Config) else Config(dict(model))
        else:
            raise TypeError(
                f"model is a config's path, a config or an exported folder, not {type(model).__name__}. (A config is "
                "not taken out of a checkpoint: there it is code, which would have to be executed.)"
            )
        if weights is None:
            raise ValueError(
                "weights are missing: name a checkpoint of tools/train.py (an exported folder has its own)"
            )
        return cfg

    def _init_model(self, cfg: Config, weights: str | None, device: str = "cpu") -> torch.nn.Module:
        settings = ConfigDict(cfg.model)
        synthesis = cfg.get("synthesis", {})
        parts = self._export or synthesis
        self._encoder_cfg = self._encoder_cfg or settings.get("backbone") or parts.get("encoder")
        # What names things where the captioner is tested counts, also where it is not what tags drawings.
        tested_with = cfg.get("test_dataloader", {}).get("dataset", {}).get("tags")
        self._tag_provider_cfg = self._tag_provider_cfg or tested_with or parts.get("tag_provider")
        if self._encoder_cfg is not None:
            settings.backbone = self._encoder_cfg
        with DefaultScope.overwrite_default_scope(self.scope):
            model = MODELS.build(settings)
            model.cfg = cfg
            if self._export is not None:
                self._export.load_into(model)
                self._memory_texts = self._export.memory_text
            else:
                checkpoint = read_checkpoint(weights)
                self._load_weights_to_model(model, checkpoint, cfg)
        return model.to(self.device).eval()

    def _load_weights_to_model(self, model: torch.nn.Module, checkpoint: dict | None, cfg: Any) -> None:
        state = checkpoint.get("state_dict", checkpoint)
        found = model.load_state_dict(dict(state), strict=False)
        missing = [name for name in found.missing_keys if not name.startswith("data_preprocessor")]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"the checkpoint is not of this config's captioner: {len(missing)} weights are missing "
                f"({', '.join(missing[:3])}), {len(found.unexpected_keys)} are unknown "
                f"({', '.join(found.unexpected_keys[:3])})"
            )

    def _init_pipeline(self, cfg: Config) -> Callable[[PhotoInput], Any]:
        return lambda item: load_input(item, self.channel_order, self.max_pixels)

    def _init_collate(self, cfg: Config) -> Callable[[list], list]:
        return list  # the captioner's preprocessor makes the batch

    def _init_visualizer(self, cfg: Config) -> None:
        return None  # built when something is drawn

    @property
    def uses_tags(self) -> bool:
        """Whether the captioner's prompt is made of tags."""
        return self.model.data_preprocessor.prompt is not None

    @property
    def memory_neck(self) -> Any | None:
        """The first neck with a memory, or ``None``."""
        return next((neck for neck in self.model.necks if hasattr(neck, "attend")), None)

    @property
    def reader(self) -> ImageReader:
        """Encoder and tag provider, built when the first picture comes.

        Raises:
            ValueError: if the config names no encoder, or no tag provider where the captioner wants tags.
        """
        with self._building:
            if self._reader is None:
                if self._encoder_cfg is None:
                    raise ValueError(
                        "pictures want an encoder, and the config names none (model.backbone or synthesis.encoder)"
                        + self._left_out("encoder")
                    )
                if self.uses_tags and self._tag_provider_cfg is None:
                    raise ValueError(
                        "this captioner was trained with a prompt of tags, and the config names no tag provider "
                        "(synthesis.tag_provider)" + self._left_out("tag_provider")
                    )
                with DefaultScope.overwrite_default_scope(self.scope):
                    tagger = build_tag_provider(self._tag_provider_cfg, self.device) if self.uses_tags else None
                    self._reader = ImageReader(self.model.backbone, tagger)
                if self.device.type == "cuda":  # whoever uses them next may be on another stream
                    torch.cuda.synchronize(self.device)
            return self._reader

    def _left_out(self, part: str) -> str:
        return f": give {part}=dict(type=...)" if self._export is None else self._export.left_out(part)

    # ---- the stages
    def _load(self, pool: ThreadPoolExecutor, errors: str, batch: list[PhotoInput]) -> list[tuple[PhotoInput, Any]]:
        def load(item: PhotoInput) -> Any:
            try:
                return self.pipeline(item)
            except (ValueError, OSError) as error:
                if errors == "raise":
                    raise
                return error

        return list(zip(batch, pool.map(load, batch)))

    @torch.no_grad()
    def read(self, images: Sequence[Image]) -> tuple[torch.Tensor, list[list[Tag]]]:
        """Features and tags of pictures.

        Args:
            images: N pictures.

        Returns:
            Features ``(N, D)`` float32 on the CPU, and N lists of tags, empty for a captioner without a prompt of tags.
        """
        reader = self.reader
        feats = reader.encoder.encode_pil(list(images))
        tags = reader.tags(list(images), feats)
        return feats.float().cpu(), tags

    def _read(self, errors: str, batch: list[tuple[PhotoInput, Any]]) -> list[CaptionResult]:
        results = []
        pictures = [loaded for _, loaded in batch if isinstance(loaded, Image)]
        feats, tags = self.read(pictures) if pictures else (torch.empty(0, 0), [])
        read = iter(zip(feats, tags))
        for item, loaded in batch:
            key = item.key
            if isinstance(loaded, Exception):
                results.append(CaptionResult(key, error=str(loaded)))
                continue
            if isinstance(loaded, CaptionSample):
                results.append(CaptionResult(key, loaded))
                continue
            feat, found = next(read) if isinstance(loaded, Image) else (loaded, [])
            if not feat.isfinite().all():
                error = f"the encoder's feature of {key} is not finite"
                if errors == "raise":
                    raise ValueError(error)
                results.append(CaptionResult(key, error=error))
                continue
            sample = CaptionSample(group_id(key), key, "real", feat=feat, tags=found)
            results.append(CaptionResult(key, sample))
        return results

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
            ValueError: see ``errors``; for a wrong ``batch_size`` or ``errors``.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if errors not in ("raise", "report"):
            raise ValueError(f"errors is 'raise' or 'report', not {errors!r}")
        with ThreadPoolExecutor(self.workers, thread_name_prefix="synthcap decode") as pool:
            batches = _batches(iter_inputs(inputs), batch_size)
            loaded = map_ahead(lambda batch: self._load(pool, errors, batch), batches, depth=1)
            yield from map_ahead(lambda batch: self._read(errors, batch), loaded, depth=1, device=self.device)

    def generation_options(
        self,
        num_beams: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        max_length: int | None = None,
        min_length: int = 0,
        no_repeat_ngram_size: int = 0,
        sample: bool = False,
        top_p: float = 0.9,
        temperature: float = 1.0,
        seed: int = 0,
        rerank: bool | None = None,
        use_cache: bool = True,
        keys: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Options of the head's ``generate``, checked.

        Args:
            num_beams: 1 is greedy. Default: the config's (1 with ``sample``).
            n_best: captions of each image, at most ``num_beams`` unless sampled. Default 1.
            length_penalty: above 0 favours longer captions among the beams, below 0 shorter ones. Default: the
                config's, or 1.
            max_length: most tokens. Default: the captioner's ``max_length``.
            min_length: least tokens before the end. Default 0.
            no_repeat_ngram_size: no sequence of so many tokens comes twice; 0: anything may. Default 0.
            sample: draw captions (nucleus sampling) instead of searching for the likeliest. Default ``False``.
            top_p: share of the probability to draw from. Default 0.9.
            temperature: divides the logits before drawing. Default 1.
            seed: of the draws; an image's come from it and the image's key, whatever the batch. Default 0.
            rerank: see :class:`~synthcap_mm.models.captioner.SynthCaptioner`. Default: the config's.
            use_cache: keep keys and values of what was decoded. Default ``True``; without, it is slower only.
            keys: of the images, for ``sample``.

        Raises:
            ValueError: if an option is out of its range, or does not go with another; named.
        """
        config = self.model.head.generation
        longest = self.model.data_preprocessor.max_length
        beams = (1 if sample else config.get("num_beams", 5)) if num_beams is None else num_beams
        length = longest if max_length is None else max_length
        for name, value, least in (
            ("num_beams", beams, 1),
            ("n_best", n_best, 1),
            ("max_length", length, 1),
            ("min_length", min_length, 0),
            ("no_repeat_ngram_size", no_repeat_ngram_size, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is an integer of at least {least}, got {value!r}")
        if length > longest:
            raise ValueError(f"max_length={length}: this captioner learned captions of at most {longest} tokens")
        if min_length > length:
            raise ValueError(f"min_length={min_length} is above max_length={length}")
        if sample and beams > 1:
            raise ValueError(f"sample=True draws captions one by one; it does not go with num_beams={beams}")
        if not sample and n_best > beams:
            raise ValueError(f"n_best={n_best} captions want as many beams; num_beams is {beams}")
        options: dict[str, Any] = {
            "num_beams": beams,
            "num_return_sequences": n_best,
            "max_new_tokens": length,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "use_cache": use_cache,
        }
        if min_length:
            options["min_new_tokens"] = min_length
        if length_penalty is not None and beams > 1:
            options["length_penalty"] = float(length_penalty)
        if rerank is not None:
            options["rerank"] = rerank
        if sample:
            seeds = [group_id(f"{seed}/{key}") for key in keys]
            options |= {"do_sample": True, "top_p": top_p, "temperature": temperature, "seeds": seeds}
        return options

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
            **options: of :meth:`generation_options`.

        Returns:
            The same results.
        """
        if top_memory < 1:
            raise ValueError(f"top_memory must be at least 1, got {top_memory}")
        readable = [result for result in inputs if result.sample is not None]
        generation = self.generation_options(keys=[result.key for result in readable], **options)
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
        wanted = None if self.model.encoder is None else len(self.model.encoder["image"])
        for sample in samples:
            if sample.feat.shape != (wanted or len(samples[0].feat),):
                raise ValueError(
                    f"the feature of {sample.key} has the shape {tuple(sample.feat.shape)}; the captioner's encoder "
                    f"makes ({wanted or len(samples[0].feat)},)"
                )

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _explain(self, results: list[CaptionResult], prefix: Any, k: int) -> None:
        weighed = self.model.memory_weights(prefix, k)
        if weighed is not None:
            for result, weights, rows in zip(results, *(part.tolist() for part in weighed)):
                result.memory = [(self.memory_text(row), weight) for row, weight in zip(rows, weights)]
        if self._encoder_cfg is not None:
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
        """One picture an input: the photo with boxes, captions, memory captions and scores.

        Args:
            inputs: what was captioned; photos are read once more.
            preds: the results, best with ``explain=True``.
            draw: draw, and return the pictures. Default ``False``, unless ``out_dir`` or ``show`` says so.
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
            drawn.append(
                self.visualizer.add_datasample(result.key, np.asarray(photo), result, show=show, out_file=file)
            )
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
            preds = [self._plain(result) for result in preds]
        return {"predictions": preds, "visualization": visualization}

    @staticmethod
    def _plain(result: CaptionResult) -> dict[str, Any]:
        return result.to_dict(explain=result.memory is not None or result.clip_score is not None)

    def __call__(
        self, inputs: Any, return_datasamples: bool = False, batch_size: int = 32, **kwargs: Any
    ) -> dict[str, Any]:
        """Caption all inputs.

        Args:
            inputs: see :func:`~synthcap_mm.inference.inputs.iter_inputs`.
            return_datasamples: see :meth:`postprocess`. Default ``False``.
            batch_size: inputs at once. Default 32.
            **kwargs: of :meth:`preprocess`, :meth:`forward` (and so :meth:`generation_options`) and :meth:`visualize`.

        Returns:
            dict: ``predictions``: for each input in order ``image`` (its key), ``caption``, ``captions`` (the best
            first, each with ``caption``, ``logprob``, the summed log-probability of its tokens, and ``score``, what
            it was ranked by), ``prompt_tags``; with ``explain`` also ``tags``, ``memory`` and ``clip_score``; with
            ``errors='report'`` ``image`` and ``error`` where it cannot be read. ``visualization``: see
            :meth:`visualize`.
        """
        self._dispatch_kwargs(**kwargs)  # refuses what is not known, before anything is done
        return super().__call__(inputs, return_datasamples, batch_size, **kwargs)

    def stream(
        self, inputs: Any, batch_size: int = 32, errors: str = "raise", **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Predictions as they come, one for each input in order; nothing is kept, so there may be any number.

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
            raise ValueError(f"unknown options {', '.join(unknown)}; known: {', '.join(sorted(self.forward_kwargs))}")
        with contextlib.closing(self.preprocess(inputs, batch_size, errors)) as batches:
            for batch in batches:
                yield from map(self._plain, self.forward(batch, **options))

    # ---- the memory
    def memory_text(self, row: int) -> str:
        """The caption at a row of the memory in use."""
        if self._memory_texts is None:
            neck = self.memory_neck
            store = Store.open(neck.memory_path)
            rows = neck.memory_rows.tolist()
            self._memory_texts = lambda row: store.captions.value("text", rows[row])
        return self._memory_texts(row)

    @torch.no_grad()
    def encode_memory(self, sentences: Sequence[str]) -> torch.Tensor:
        """Features of sentences, for :meth:`use_memory`.

        Args:
            sentences: the captions of another domain ("TT", target text); at least one.

        Returns:
            ``(M, D)`` float32.

        Raises:
            ValueError: if there is no sentence, one is empty, or the captioner has no memory.
        """
        if self.memory_neck is None:
            raise ValueError("this captioner has no memory (no TextMemoryProjection among its necks)")
        if isinstance(sentences, str):
            raise ValueError("sentences is one string; give a list of sentences")
        if not sentences:
            raise ValueError("a memory needs at least one sentence")
        for number, sentence in enumerate(sentences, 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"sentence {number} of the memory is empty or no text: {sentence!r}")
        encoder = self.reader.encoder
        parts = [sentences[i : i + _TEXT_BATCH] for i in range(0, len(sentences), _TEXT_BATCH)]
        return torch.cat([encoder.encode_text([" ".join(s.split()) for s in part]).float() for part in parts])

    @contextlib.contextmanager
    def use_memory(self, sentences: Sequence[str], feats: torch.Tensor | None = None) -> Iterator[None]:
        """While in the context, the memory is these sentences; afterwards it is what it was.

        Args:
            sentences: the captions.
            feats: their features, of :meth:`encode_memory`. Default: made here.

        Raises:
            ValueError: see :meth:`encode_memory`.
        """
        feats = self.encode_memory(sentences) if feats is None else feats
        texts, kept = [" ".join(s.split()) for s in sentences], self._memory_texts
        with contextlib.ExitStack() as stack:
            for neck in self.model.necks:
                if hasattr(neck, "other_memory"):
                    stack.enter_context(neck.other_memory(feats))
            self._memory_texts = texts.__getitem__
            try:
                yield
            finally:
                self._memory_texts = kept
