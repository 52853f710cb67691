"""Everything that a config needs and that is not there, in one list."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from synthcap_mm.stores import Store, StoreError


def _walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk(item)
    else:
        yield value


def _stores(cfg: Config, stages: tuple[str, ...]) -> list[str]:
    loaders = {"train": ("train_dataloader", "val_dataloader"), "test": ("test_dataloader",)}
    found: list[str] = []
    for stage in stages:
        for name in loaders.get(stage, ()):
            store = ((cfg.get(name) or {}).get("dataset") or {}).get("store")
            found += [store] if store else []
    if found and cfg.get("model", {}).get("store"):
        found.append(cfg.model.store)
    if "train" in stages and cfg.get("test_best"):
        found += _stores(cfg, ("test",))
    return list(dict.fromkeys(found))


def missing_inputs(cfg: Config, *stages: str) -> list[str]:
    """What is missing for some stages of a config, one sentence each.

    A config says in ``inputs`` where things that cannot come by themselves belong
    and how to get them: a list of ``dict(path=..., how=...)``; ``path`` may be a
    pattern. An entry counts for a stage when the stage's settings name its path.

    Args:
        cfg: the config.
        *stages: ``'synthesis'``, ``'photo_stores'``, ``'train'``, ``'test'``.

    Returns:
        The sentences; none if all is there.
    """
    lines = []
    photo_stores = {e["store"] for e in cfg.get("photo_stores", [])}
    name = cfg.get("filename") or cfg.get("config_name", "CONFIG")
    makes: set[str] = {s for s in stages if s in ("synthesis", "photo_stores")}
    for store in _stores(cfg, stages):
        try:
            Store.open(store)
        except StoreError as error:
            stage = "photo_stores" if store in photo_stores else "synthesis"
            makes.add(stage)
            tool = "encode_images" if stage == "photo_stores" else "synthesize"
            lines.append(f"store {store}: {error}\n    → python tools/{tool}.py {name}")
    named = {str(v) for s in makes for v in _walk(cfg.get(s, {}))}
    if "photo_stores" in makes:
        named |= {str(v) for k in ("encoder", "tag_provider") for v in _walk(cfg.get("synthesis", {}).get(k, {}))}
    for entry in cfg.get("inputs", []):
        path = str(entry["path"])
        if path in named and not (Path(path).exists() or glob.glob(path)):
            lines.append(f"{path}: {entry['how']}")
    return lines
