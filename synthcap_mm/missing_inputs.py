"""What a step of a config needs before it begins: everything that is missing, in one list, and the right store."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from synthcap_mm.commands import command
from synthcap_mm.errors import UserError
from synthcap_mm.store import Store, StoreError
from synthcap_mm.store.store import view_file
from synthcap_mm.synthesis.curation import Curation
from synthcap_mm.synthesis.photos import SHARED
from synthcap_mm.synthesis.synthesis import Synthesis


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
            datasets = datasets_in((cfg.get(name) or {}).get("dataset") or {})
            found += [data["store"] for data in datasets if data.get("store")]
    if "test_sets" in stages:
        found += [entry["store"] for entry in cfg.get("test_sets", [])]
    if found:
        model = cfg.get("model", {})
        necks = [neck for neck in model.get("necks", {}).values() if neck]
        found += [s for s in (model.get("store"), *(n.get("memory") for n in necks)) if s]
        # Of MomentMatching: a table of the captioner's own store, or another store.
        moments = [n.get(end) for n in necks for end in ("start", "target")]
        found += [s for s in moments if s and s not in ("captions", "images")]
    if "curation" in stages:
        found.append(curation_settings(cfg)["store"])
    if "train" in stages and cfg.get("test_best"):
        found += _stores(cfg, ("test",))
    return list(dict.fromkeys(found))


def unread_store(cfg: Config) -> str | None:
    """A sentence, if ``synthesis.limit`` makes another store than training reads.

    Args:
        cfg: the config.

    Returns:
        The sentence; ``None`` if there is no limit, or training does not read ``synthesis.store``.
    """
    synthesis = cfg.get("synthesis", {})
    read = _stores(cfg, ("train",))
    if synthesis.get("limit") is None or "store" not in synthesis or synthesis["store"] not in read:
        return None
    made = view_file(synthesis["store"], synthesis["limit"])
    return (
        f"synthesis.limit={synthesis['limit']} makes the store {made}, but training reads {synthesis['store']}: leave "
        f"the limit out, or name {made} wherever the config names the other (train_dataloader.dataset.store, "
        "val_dataloader.dataset.store, model.store)"
    )


def _path_missing(path: str) -> bool:
    return not (Path(path).exists() or glob.glob(path))


def _module_missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _hub_missing(repository: str) -> bool:
    import huggingface_hub

    try:
        huggingface_hub.snapshot_download(repository, local_files_only=True)
        return False
    except Exception:  # not in the cache; the library has several errors for it
        pass
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=5)
        return False
    except Exception:  # no network, or no such repository: to the user it is the same, it does not come by itself
        return True


_MISSING = {"path": _path_missing, "module": _module_missing, "hub": _hub_missing}


def missing_inputs(cfg: Config, *stages: str) -> list[str]:
    """What is missing for some stages of a config, one sentence each.

    A config says in ``inputs`` where things belong that may not come by themselves,
    and how to get them: a list of ``dict(path=..., how=...)`` (a file, a folder or a
    pattern), ``dict(hub=..., how=...)`` (a Hugging Face repository: missing when it is
    neither in the cache nor within reach) or ``dict(module=..., how=...)``. An entry
    counts for a stage when the stage's settings name its ``needed_by`` (its path by default).

    Args:
        cfg: the config.
        *stages: ``'synthesis'``, ``'curation'``, ``'photo_stores'``, ``'train'``, ``'test'``, ``'test_sets'``.

    Returns:
        The sentences; none if all is there.
    """
    lines = []
    photo_stores = {e["store"] for e in cfg.get("photo_stores", [])}
    name = cfg.filename or cfg.get("config_name", "CONFIG")
    makes: set[str] = {s for s in stages if s in ("synthesis", "photo_stores")}
    for store in _stores(cfg, stages):
        try:
            Store.open(store)
        except StoreError as error:
            stage = "photo_stores" if store in photo_stores else "synthesis"
            makes.add(stage)
            advice = f"→ {command('encode-images' if stage == 'photo_stores' else 'synthesize', name)}"
            if store == cfg.get("synthesis", {}).get("store"):
                advice = unread_store(cfg) or advice
            lines.append(f"store {store}: {error}\n    {advice}")
    # Of test_sets, the files of captions that become a memory.
    whole = {*makes, *stages} & {"synthesis", "curation", "photo_stores", "test_sets"}
    named = {str(v) for s in whole for v in _walk(cfg.get(s, {}))}
    if {"train", "test", "test_sets"} & {*stages}:
        named |= {str(v) for v in _walk(cfg.get("model", {}))}  # a pretrained decoder, its tokenizer
    if "photo_stores" in makes:
        named |= {str(v) for k in SHARED for v in _walk(cfg.get("synthesis", {}).get(k, {}))}
    for entry in cfg.get("inputs", []):
        kind = next((k for k in _MISSING if k in entry), None)
        if kind is None:
            raise UserError(f"an entry of 'inputs' has one of {', '.join(_MISSING)}; got {dict(entry)}")
        thing = str(entry[kind])
        if entry.get("needed_by", thing) in named and _MISSING[kind](thing):
            lines.append(f"{thing}: {entry['how']}")
    return lines


def require_inputs(cfg: Config, *stages: str) -> None:
    """Refuse to begin while something is missing, and name all of it at once.

    Raises:
        UserError: if files of those stages are missing.
    """
    missing = missing_inputs(cfg, *stages)
    if not missing:
        return
    if "train" in stages and "test_dataloader" in cfg:
        # Also what the test needs, so that the user sees everything that is missing at once.
        missing += [f"{m}  (for the test)" for m in missing_inputs(cfg, "test") if m not in missing]
    lines = "\n".join(f"  - {line}" for line in missing)
    raise UserError(f"{len(missing)} thing(s) that {cfg.get('config_name', 'the config')} needs are missing:\n{lines}")


def require_checkpoint(cfg: Config, checkpoint: str) -> None:
    """Refuse a checkpoint that is not there.

    Raises:
        UserError: naming the command that trains one.
    """
    if not Path(checkpoint).is_file():
        raise UserError(
            f"no checkpoint at {checkpoint}; train one: {command('train', cfg.filename or cfg.config_name)}"
        )


def section(cfg: Config, name: str) -> Any:
    """A section of a config.

    Raises:
        UserError: if the config has none.
    """
    if not cfg.get(name):
        raise UserError(f"the config {cfg.config_name} has no field {name!r}, so there is nothing to do")
    return cfg[name]


def pairs_store(cfg: Config) -> str:
    """The store that ``cfg.synthesis`` makes: its folder, or a view in it."""
    limit = section(cfg, "synthesis").get("limit")
    return cfg.synthesis.store if limit is None else str(view_file(cfg.synthesis.store, limit))


def check_store(cfg: Config) -> None:
    """Refuse to train on a store that was made by other settings or of other captions than the config's.

    What training does not use may be otherwise, or not there.

    Raises:
        UserError: naming what differs.
    """
    if "synthesis" not in cfg:
        return
    served = _trained_on(cfg)
    if not served:
        return
    store, synthesis = Store.open(served[0].store), Synthesis(**cfg.synthesis)
    recipes = dict(synthesis.recipes)
    recipes.pop("pictures", None)
    if any(data.get("refined") and data.get("pairs", "default") == "default" for data in served):
        recipes.setdefault("refined/default", {})
    else:
        recipes.pop("refined/default", None)
    if "tokenizer" in cfg.model.get("data_preprocessor", {}):
        recipes.pop("tokenizer", None)
    if trains_on_curated(cfg):
        recipes[f"pairs/{curated_name(cfg)}"] = Curation(**curation_settings(cfg)).recipe_in(store)
    store.check_recipes(recipes)
    if os.environ.get("RANK", "0") == "0":  # one process reads the captions
        _check_captions(store, synthesis)


def _check_captions(store: Store, synthesis: Synthesis) -> None:
    try:
        keys = synthesis.text_keys
    except (OSError, UserError):  # the sentences are not needed any more
        return
    if keys != store.opened("texts").keys:
        raise UserError(
            f"the captions of the config ({len(synthesis.captions)}) are not those that the store {store.path} has "
            f"({len(store.captions)}): run `synthesize` again, which makes what differs"
        )


def curation_settings(cfg: Config) -> dict[str, Any]:
    """Arguments of :class:`Curation` as ``cfg.curation`` has them; a list is its ``steps`` alone."""
    settings = section(cfg, "curation")
    settings = dict(settings) if isinstance(settings, dict) else {"steps": settings}
    settings.setdefault("store", pairs_store(cfg))
    return settings


def curated_name(cfg: Config) -> str | None:
    """Name of the pairs that the config's curation makes; ``None`` without one."""
    return curation_settings(cfg).get("name", "curated") if cfg.get("curation") else None


def _trained_on(cfg: Config) -> list[dict[str, Any]]:
    """The training datasets that read the store that ``cfg.synthesis`` makes."""
    return [data for data in datasets_in(cfg.train_dataloader.dataset) if data.get("store") == pairs_store(cfg)]


def trains_on_curated(cfg: Config) -> bool:
    """Whether the pairs that are trained on are those that the config's own curation makes."""
    name = curated_name(cfg)
    return name is not None and any(data.get("pairs") == name for data in _trained_on(cfg))


def datasets_in(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A dataset's config, and those of datasets within it."""
    yield data
    for inner in [*data.get("datasets", ()), data.get("dataset")]:
        if isinstance(inner, dict):
            yield from datasets_in(inner)
