"""Tags by any detector of mmdet."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from synthcap_mm.errors import UserError, near
from synthcap_mm.exportable import OneOf, SafetensorsFile, Texts, data, refused
from synthcap_mm.models.tag_providers.base import BaseTagProvider
from synthcap_mm.options import Count, Device, Name, Part
from synthcap_mm.registry import MODELS
from synthcap_mm.requirements import require
from synthcap_mm.store.recipes import digest
from synthcap_mm.structures import Tag
from synthcap_mm.weights_files import local_file, read_checkpoint, state_dict_of

if TYPE_CHECKING:
    from mmengine.config import Config
    from PIL.Image import Image
    from torch import nn


@MODELS.register_module()
class MMDetTagProvider(BaseTagProvider):
    """Any mmdet detector with a checkpoint, run on batches through its own test pipeline.

    A picture's detections are those of ``mmdet.apis.inference_detector`` on the
    same array: pictures that the pipeline brings to the same size go through the
    detector together, others apart, so that nobody is padded for another's sake.
    MMEngine's default scope is afterwards what it was.

    Nothing in the checkpoint is executed.

    Args:
        config (str): path of an mmdet config, or the name of one that mmdet ships
            (``'yolox/yolox_nano_8xb8-300e_coco'``).
        checkpoint (str): path or URL of its weights: a checkpoint of MMEngine's, or ``.safetensors``.
        device (str): where the detector runs. Defaults to 'cpu'.
        batch_size (int): pictures that go through the detector together. Defaults to 8.
        max_tags (int): see :class:`BaseTagProvider`. Defaults to 20.
        min_score (float): see :class:`BaseTagProvider`. The detector's own
            ``score_thr`` comes first. Defaults to 0.05.
        classes (Sequence[str], optional): class names, in the order of the
            detector's labels. Defaults to None: the checkpoint's, else those of
            the config's test dataset.

    Raises:
        ImportError: if mmdet is missing, or cannot be used beside the installed mmcv.
        FileNotFoundError: if the checkpoint is missing.
        UserError: if there is no such config (with near names), the checkpoint lacks weights, cannot be downloaded or
            holds other things than tensors and plain values, or no class names can be found.
    """

    not_in_recipe = ("device", "batch_size")
    exportable = {
        "config": OneOf(lambda: shipped_configs()),
        "checkpoint": SafetensorsFile(),
        "classes": Texts(),
        **data("batch_size", "max_tags", "min_score"),
    }

    def __init__(
        self,
        config: Name,
        checkpoint: Name,
        device: Device = "cpu",
        batch_size: Count = 8,
        max_tags: Count = 20,
        min_score: Part = 0.05,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(max_tags, min_score)
        _require_mmdet()
        self.batch_size = batch_size
        path, self._config_name = find_config(config)
        weights = local_file(checkpoint)
        with mmdet_scope():
            from mmengine.config import Config

            cfg = Config.fromfile(path)
            self._model = _build_detector(cfg, self._config_name)
            meta = _load_weights(self._model, weights, self._config_name)
            self._pipeline = _array_pipeline(cfg)
            self.classes = tuple(classes) if classes is not None else _class_names(meta, cfg, weights.name)
        self._model.to(device).eval()

    @classmethod
    def from_export(cls, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """Refuses detectors that load more than their weights; see :func:`~synthcap_mm.exportable.read_component`."""
        for name in ("config", "checkpoint", "classes"):
            if name not in settings:
                raise refused(f"{where}.{name}", None, "needed")
        from mmengine.config import Config

        with mmdet_scope():
            cfg = Config.fromfile(settings["config"], import_custom_modules=False)
        odd = cfg.get("custom_imports") or _loads_more(cfg.get("model"))
        if odd:
            raise UserError(f"{where}.config: this detector loads more than its weights ({odd}); give it yourself")
        return settings

    @classmethod
    def pin(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments with the content of a config that is a file, for recipes; those that mmdet ships stay.

        Args:
            arguments: of the constructor.
        """
        if not Path(arguments["config"]).is_file():
            return arguments
        from mmengine.config import Config

        with mmdet_scope():
            content = _config_sha256(Config.fromfile(arguments["config"]))
        return {**arguments, "config": {"file": Path(arguments["config"]).name, "sha256": content}}

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return next(self._model.parameters()).device

    @torch.no_grad()
    def detect(self, images: list[Image]) -> list[list[Tag]]:
        """See :meth:`BaseTagProvider.detect`.

        Raises:
            UserError: if the detector gives a label that has no class name.
        """
        found: list[list[Tag]] = [[] for _ in images]
        with mmdet_scope(), torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(images), self.batch_size):
                alike = defaultdict(list)
                for index, image in enumerate(images[start : start + self.batch_size], start=start):
                    # mmdet reads pictures with OpenCV, in BGR
                    array = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
                    data = self._pipeline({"img": array, "img_id": 0})
                    alike[tuple(data["inputs"].shape)].append((index, data))
                for group in alike.values():
                    results = self._model.test_step(
                        {
                            "inputs": [data["inputs"] for _, data in group],
                            "data_samples": [data["data_samples"] for _, data in group],
                        }
                    )
                    for (index, _), result in zip(group, results):
                        found[index] = self._tags(result.pred_instances, images[index].size)
        return found

    def _tags(self, instances: Any, size: tuple[int, int]) -> list[Tag]:
        width, height = size
        tags = []
        boxes, scores, labels = (instances[field].cpu().tolist() for field in ("bboxes", "scores", "labels"))
        for box, score, label in zip(boxes, scores, labels):
            if label >= len(self.classes):
                raise UserError(
                    f"the detector {self._config_name!r} gives label {label}, but there are only "
                    f"{len(self.classes)} class names; name all of them, in order, with classes=[...]"
                )
            x1, y1, x2, y2 = (min(max(value, 0.0), limit) for value, limit in zip(box, (width, height) * 2))
            area = max(x2 - x1, 0.0) * max(y2 - y1, 0.0) / (width * height)
            tags.append(Tag(self.classes[label], score, (x1, y1, x2, y2), area))
        return self.keep(tags)

    def weights(self) -> dict[str, torch.Tensor]:
        """The detector's weights by name, as ``checkpoint`` takes them in a ``.safetensors`` file with ``classes``."""
        return self._model.state_dict()

    def to(self, device: str | torch.device) -> MMDetTagProvider:
        """Moves the detector."""
        self._model.to(device)
        return self


def _require_mmdet() -> Any:
    try:
        with mmdet_scope(None):
            require("mmdet.apis", extra="mmdet", purpose="MMDetTagProvider")
            return importlib.import_module("mmdet")
    except AssertionError as error:  # mmdet asserts the versions of mmcv and mmengine when it is imported
        raise ImportError(
            f"mmdet cannot be used: {error} Do not mix open-mmlab's distributions with the onedl-* ones: "
            "pip uninstall -y mmengine mmcv mmdet onedl-mmengine onedl-mmcv onedl-mmdetection, "
            "then pip install 'synthcap_mm[mmdet]'"
        ) from error


@contextmanager
def mmdet_scope(scope: str | None = "mmdet") -> Iterator[None]:
    """Runs its body in mmdet's default scope, and puts MMEngine's back as it was, whatever happens.

    Args:
        scope: name of the scope; ``None`` changes nothing, but still puts back
            what the body changes.
    """
    from mmengine.registry import DefaultScope

    # mmengine's own context manager would restore copies, not these instances
    before = DefaultScope._instance_dict.copy()
    try:
        with DefaultScope.overwrite_default_scope(scope):
            yield
    finally:
        DefaultScope._instance_dict = before


def shipped_configs() -> dict[str, str]:
    """The configs that mmdet ships: name, such as ``'yolox/yolox_nano_8xb8-300e_coco'``, to file."""
    package = Path(require("mmdet", extra="mmdet", purpose="MMDetTagProvider").__file__).parent
    # a checkout that is installed in place has its configs beside the package
    roots = [root for root in (package / ".mim" / "configs", package.parent / "configs") if root.is_dir()]
    shipped: dict[str, str] = {}
    for root in roots:
        for path in root.rglob("*.py"):
            shipped.setdefault(path.relative_to(root).with_suffix("").as_posix(), str(path))
    return shipped


def find_config(config: str) -> tuple[Path, str]:
    """The file of an mmdet config, and what to call it.

    Args:
        config: a path, or the name of a config that mmdet ships, with or without ``.py``.

    Returns:
        tuple: the path, and the name without the folder of this machine.

    Raises:
        UserError: with the names near to ``config``.
    """
    if Path(config).is_file():
        return Path(config), Path(config).name
    name = config.removeprefix("mmdet::").removesuffix(".py")
    shipped = shipped_configs()
    if name in shipped:
        return Path(shipped[name]), name
    same_file = [known for known in shipped if known.rsplit("/", 1)[-1] == name]
    if len(same_file) == 1:
        return Path(shipped[same_file[0]]), same_file[0]
    meant = " or ".join(map(repr, same_file or near(name, shipped)))
    hint = f"did you mean {meant}?" if meant else "none of mmdet's has a similar name."
    raise UserError(f"{config!r} is neither a file nor a config that mmdet ships; {hint}")


def _config_sha256(cfg: Config) -> str:
    """Hash of what in a detector's config decides its detections."""
    dataset = cfg.get("test_dataloader", {}).get("dataset", {})
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    decisive = [
        cfg.get("model"),
        dataset.get("pipeline"),
        dataset.get("metainfo"),
    ]  # no paths of data
    return digest(json.loads(json.dumps(decisive, default=str)))


#: Words in the names of options by which mmdet's models load further files, or ask a hub.
_LOADING = ("teacher", "ckpt", "checkpoint", "pretrained", "model_name", "language", "tokenizer")


def _loads_more(settings: Any) -> str | None:
    """An option by which a detector loads more than the weights that it is given, or ``None``."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            if value is None or name == "init_cfg":  # left out when it is built
                continue
            if any(word in name for word in _LOADING) or (name == "type" and "." in str(value)):
                return f"{name}={str(value)[:60]}"
            if found := _loads_more(value):
                return found
    elif isinstance(settings, (list, tuple)):
        return next(filter(None, map(_loads_more, settings)), None)
    elif isinstance(settings, str) and ("/" in settings or "bert" in settings):
        return settings
    return None


def _without_init_cfg(settings: Any) -> Any:
    """Settings without the weights that mmdet would download, and the checkpoint replaces."""
    if isinstance(settings, dict):
        return {name: _without_init_cfg(value) for name, value in settings.items() if name != "init_cfg"}
    return [_without_init_cfg(value) for value in settings] if isinstance(settings, list) else settings


def _build_detector(cfg: Config, name: str) -> nn.Module:
    from mmdet.registry import MODELS as MMDET_MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict
    from mmengine.model.utils import revert_sync_batchnorm

    register_all_modules(init_default_scope=False)
    return revert_sync_batchnorm(MMDET_MODELS.build(ConfigDict(_without_init_cfg(cfg.model.to_dict()))))


def _load_weights(model: nn.Module, path: Path, config_name: str) -> dict[str, Any]:
    """Loads the weights; returns the checkpoint's ``meta``."""
    checkpoint = read_checkpoint(path, "detector checkpoint")
    state = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    state = {key.removeprefix("module."): value for key, value in state_dict_of({"state_dict": state}, path).items()}
    try:
        missing = set(model.load_state_dict(state, strict=False).missing_keys)
    except RuntimeError as error:
        raise UserError(f"the checkpoint {path.name!r} does not fit the config {config_name!r}: {error}") from error
    # buffers may be missing (older checkpoints lack some), learned weights may not
    missing &= {name for name, _ in model.named_parameters()}
    if missing:
        raise UserError(
            f"the checkpoint {path.name!r} does not fit the config {config_name!r}: it lacks {len(missing)} weights, "
            f"{', '.join(sorted(missing)[:3])} among them"
        )
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def _array_pipeline(cfg: Config) -> Any:
    """The config's test pipeline, beginning with an array instead of a file."""
    from mmcv.transforms import Compose
    from mmdet.utils import get_test_pipeline_cfg

    pipeline = get_test_pipeline_cfg(cfg.copy())
    pipeline[0]["type"] = "mmdet.LoadImageFromNDArray"
    return Compose(pipeline)


def _class_names(meta: dict[str, Any], cfg: Config, checkpoint: str) -> tuple[str, ...]:
    """The checkpoint's class names, else those of the config's test dataset."""
    from mmdet.registry import DATASETS

    told = meta.get("dataset_meta")
    named = {str(key).lower(): value for key, value in told.items()} if isinstance(told, dict) else {}
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    sources = (
        named.get("classes"),
        meta.get("CLASSES"),
        (dataset.get("metainfo") or {}).get("classes"),
        getattr(DATASETS.get(dataset.type), "METAINFO", {}).get("classes"),
    )
    for classes in sources:
        if isinstance(classes, str) and classes:
            return (classes,)
        if isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes):
            return tuple(classes)
    raise UserError(
        f"neither the checkpoint {checkpoint!r} nor the config's test dataset names the classes; give classes=[...]"
    )
