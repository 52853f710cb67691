"""Makes the good objects, in a process that ends: torch's threads for gradients do not go well with forks."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NUMBERS = itertools.count()


def in_other_process(function: Callable[..., None], *args: Any) -> None:
    """Run a function in a forked child, and wait for it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*args)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{function.__name__} failed")


def quiet() -> None:
    """One thread, our scope, and a logger that says errors only."""
    import components  # noqa: F401 - registers tests/components.py
    import mmengine.runner
    import torch
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    torch.set_num_threads(1)
    mmengine.runner.runner.collect_env = dict  # these ask compilers and git
    mmengine.utils.version_utils._minimal_ext_cmd = lambda command: b"none"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    init_default_scope("synthcap_mm")
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level="ERROR")


def has_mmdet() -> bool:
    """Whether mmdet is there; imports it, so that no case has to."""
    try:
        from synthcap_mm.models.tag_providers.mmdet_tag_provider import mmdet_scope

        with mmdet_scope(None):
            import mmdet.apis  # noqa: F401
            from mmdet.utils import register_all_modules

            register_all_modules(init_default_scope=False)
    except ImportError:
        return False
    return True


def make_stores(folder: Path, **changes: Any) -> tuple[str, str]:
    """A store of pairs and one of photos."""
    from tiny_store import tiny_settings

    from synthcap_mm.synthesis.photos import PhotoStore
    from synthcap_mm.synthesis.synthesis import Synthesis

    settings = {**tiny_settings(folder / "pairs"), **changes}
    Synthesis(**settings).run()
    parts = (settings["encoder"], settings["tag_provider"])
    PhotoStore(str(folder / "photos"), {"type": "TinyPhotos"}, *parts, shard_size=5).run()
    return str(folder / "pairs"), str(folder / "photos")


def experiment() -> str:
    """A name that no runner of this process has."""
    return f"fuzz-{next(_NUMBERS):06d}"


def captioner_config(stores: tuple[str, str], encoder: dict, tagger: dict, width: int) -> dict[str, Any]:
    """A tiny captioner with a memory and a prompt of tags."""

    def loader(dataset: dict) -> dict[str, Any]:
        sampler = {"type": "DefaultSampler", "shuffle": False}
        return {"batch_size": 64, "num_workers": 0, "sampler": sampler, "dataset": dataset}

    return {
        "model": {
            "type": "SynthCaptioner",
            "store": stores[0],
            "data_preprocessor": {"type": "CaptionPreprocessor", "prompt": {"min_score": 0.05}, "max_length": 8},
            "necks": {
                "memory": {"type": "TextMemoryProjection", "temperature": 0.02},
                "projector": {"type": "PrefixProjector", "prefix_length": 2},
            },
            "head": {"type": "GPT2CaptionHead", "width": 32, "layers": 1, "heads": 2, "positions": 80,
                     "dropout": 0.0, "generation": {"num_beams": 2}},
        },
        "synthesis": {"store": stores[0], "captions": {"type": "TinyCaptions"}, "encoder": encoder,
                      "generator": {"type": "TinyPainter"}, "tag_provider": tagger},
        "train_dataloader": loader({"type": "SynthPairDataset", "store": stores[0]}),
        "test_dataloader": loader({"type": "CaptionEvalDataset", "store": stores[1]}),
        "test_evaluator": [{"type": "CaptionMetric", "metrics": ["length"]}],
        "test_cfg": {"type": "TestLoop"},
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 1},
        "optim_wrapper": {"type": "AutocastOptimWrapper", "dtype": "float32", "optimizer": {"type": "AdamW", "lr": 3e-3}},
        "default_scope": "synthcap_mm",
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 50},
                          "checkpoint": {"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 1}},
        "log_level": "ERROR",
        "randomness": {"seed": 0},
    }  # fmt: skip


def train(config: dict[str, Any], steps: int = 40) -> Any:
    """A captioner that was trained a little, so that damage shows in what it says."""
    import torch
    from small_training import train_a_little

    from synthcap_mm.datasets import SynthPairDataset
    from synthcap_mm.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config["model"]))
    train_a_little(model, SynthPairDataset(config["model"]["store"]), steps, lr=5e-3)
    return model


def photo() -> Any:
    """A photo to caption."""
    from components import TinyPhotos

    return TinyPhotos(num=2).load(1).resize((48, 40))
