"""One checkpoint on several test sets: in-domain, cross-domain, another memory (TT), NoCaps by domain; one table."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from synthcap_mm.config_fields import check_fields
from synthcap_mm.engine.runners import build_runner
from synthcap_mm.engine.shared_encoder import share_encoder
from synthcap_mm.engine.testing import prepare_evaluators, run_test
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.nearest_caption import NEAREST, floor_of
from synthcap_mm.files import write_atomically, write_json
from synthcap_mm.missing_inputs import require_checkpoint, require_inputs
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.store import Store
from synthcap_mm.store.store import view_file
from synthcap_mm.synthesis.synthesis import Synthesis

_FIELDS = ("name", "store", "memory")
_EXAMPLE = "test_sets = [dict(name='flickr30k', store='data/flickr30k/test')]"


def check_test_sets(cfg: Config, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The entries of ``cfg.test_sets``, checked.

    An entry has a ``name``; a ``store`` of photos; and, for "target text" (TT), a ``memory`` that takes the place of
    the captioner's: a store with captions, a file of captions, or the config of a caption source.

    Args:
        cfg: the config.
        names: those that are wanted. Default ``None``: all.

    Raises:
        UserError: if the field is missing or malformed, a name is given twice, or a wanted one is not there.
    """
    entries = [dict(entry) for entry in cfg.get("test_sets") or []]
    if not entries:
        raise UserError(f"the config {cfg.config_name} has no field 'test_sets'; e.g. {_EXAMPLE}")
    for n, entry in enumerate(entries):
        wrong = [f"it lacks {key!r}" for key in _FIELDS[:2] if key not in entry]
        wrong += [f"{key!r} is no field" for key in entry if key not in _FIELDS]
        if wrong:
            fields = ", ".join(_FIELDS)
            raise UserError(f"test_sets[{n}]: {', '.join(wrong)}; its fields are {fields}. E.g. {_EXAMPLE}")
    known = [entry["name"] for entry in entries]
    repeated = sorted({name for name in known if known.count(name) > 1})
    if repeated:  # one would overwrite the other's results
        raise UserError(f"test_sets: the name {repeated[0]!r} is given twice")
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UserError(f"no test set {unknown[0]!r} in the config; there are {', '.join(known)}")
    return [entry for entry in entries if names is None or entry["name"] in names]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


def memory_store(
    memory: str | Mapping[str, Any],
    encoder: Mapping[str, Any] | None,
    folder: Path,
    other_encoders: Mapping[str, Any] | None = None,
) -> str:
    """The store whose captions are the memory; made, with captions only, unless ``memory`` is one.

    Args:
        memory: folder of a store, a file of captions, or the config of a caption source.
        encoder: config of the encoder, for what is to be encoded.
        folder: where to make the store; what was made there of the same captions is used again.
        other_encoders: configs of the encoders beside it by name. Default ``None``: there are none.

    Returns:
        The store's folder.

    Raises:
        UserError: if there is no such store or file, or captions are to be encoded and there is no encoder.
    """
    if isinstance(memory, str):
        view = view_file(memory)
        if view.is_file() and (view.parent / "tables").is_dir():  # captions may be a json file, too
            return memory
        if not Path(memory).is_file():
            raise UserError(f"the memory {memory} is neither a store nor a file of captions")
        memory = {"type": "CaptionFile", "path": memory}
    if encoder is None:
        raise UserError("a memory of captions has to be encoded, and the config has no synthesis.encoder")
    # All captions go into the memory: none is held out, since nothing is trained on them.
    settings = {"captions": dict(memory), "encoder": dict(encoder), "other_encoders": other_encoders}
    Synthesis(store=str(folder), **settings, tokenizer=None, holdout=0.0).run()
    return str(folder)


def test_many(cfg: Config, checkpoint: str, names: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Test a checkpoint on each of ``cfg.test_sets``, and write one table.

    Each set's own results lie in ``WORK_DIR/NAME`` (see :func:`~synthcap_mm.engine.testing.run_test`), the table in
    ``WORK_DIR/test_many.json`` and ``.csv``. A set with domains has a line for each, and one for all of them.

    Args:
        cfg: the config; see :func:`check_test_sets`. Dataloader and metrics are those of its test split.
        checkpoint: file of a trained captioner.
        names: the sets that are wanted. Default ``None``: all.

    Returns:
        Metrics by line of the table.

    Raises:
        UserError: see :func:`check_test_sets`; if the checkpoint or stores are missing (all are named at once), a set
            has a memory and the captioner uses none, or a set or memory was made with another encoder than the
            captioner's.
    """
    check_fields(cfg)
    share_encoder(cfg)
    require_checkpoint(cfg, checkpoint)
    entries = check_test_sets(cfg, names)
    cfg.test_sets = entries
    require_inputs(cfg, "test_sets")
    folder = Path(cfg.work_dir)
    encoder, others = (cfg.get("synthesis", {}).get(name) for name in ("encoder", "other_encoders"))
    memories = {
        entry["name"]: memory_store(entry["memory"], encoder, folder / "memories" / _slug(entry["name"]), others)
        for entry in entries
        if "memory" in entry
    }
    table: dict[str, dict[str, float]] = {}
    for entry in entries:
        table |= _lines(entry["name"], _test_one(cfg, entry, memories.get(entry["name"]), checkpoint))
    if is_main_process():
        _write(table, folder, checkpoint, entries)
    return table


def _test_one(cfg: Config, entry: Mapping[str, Any], memory: str | None, checkpoint: str) -> Mapping[str, float]:
    own = copy.deepcopy(cfg)
    own.work_dir = str(Path(cfg.work_dir) / _slug(entry["name"]))
    own.test_dataloader.dataset.store = entry["store"]
    prepare_evaluators(own)
    # Nothing is trained or validated here.
    for part in ("train", "val"):
        own[f"{part}_dataloader"] = own[f"{part}_cfg"] = None
    own.val_evaluator = own.optim_wrapper = own.param_scheduler = None
    runner = build_runner(own, to_test=True)
    captioner = runner.model.module if is_model_wrapper(runner.model) else runner.model
    about = f"test set {entry['name']!r}: {entry['store']}"
    swapped = contextlib.nullcontext()
    if memory is not None:
        other = CaptionMemory.from_store(Store.open(memory))
        swapped = captioner.swapped_memory(other)
        about += f", with the {len(other)} captions of {memory} as memory"
    print_log(about, logger="current")
    with swapped:
        return run_test(runner, own, checkpoint, memory)


def _lines(name: str, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """A set's lines: all of it, and each domain; below each its floor."""
    found: dict[str, dict[str, float]] = {}
    for metric, value in metrics.items():
        domain, _, own = metric.rpartition("/")
        found.setdefault(domain, {})[own] = float(value)
    domains = [domain for domain in found if domain.rpartition("/")[2] != NEAREST]
    lines: dict[str, dict[str, float]] = {}
    for domain in domains:
        title = f"{name} {domain or 'entire'}" if len(domains) > 1 else name
        lines[title] = found[domain]
        floor = floor_of(f"{domain}/" if domain else "").rstrip("/")
        if floor in found:
            lines[f"{title}, nearest training caption"] = found[floor]
    return lines


def many_table(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table as text: a line a set, a column a metric."""
    columns = list(dict.fromkeys(metric for values in table.values() for metric in values))
    width = max(map(len, table))
    lines = [f"  {'':<{width}}  " + "  ".join(f"{column:>8}" for column in columns)]
    for name, values in table.items():
        cells = [f"{values[c]:.2f}" if c in values else "–" for c in columns]
        lines.append(f"  {name:<{width}}  " + "  ".join(f"{v:>{max(8, len(c))}}" for c, v in zip(columns, cells)))
    return "\n".join(lines)


def _write(
    table: Mapping[str, Mapping[str, float]], folder: Path, checkpoint: str, entries: Sequence[Mapping[str, Any]]
) -> None:
    sets = [{**entry, "memory": entry.get("memory")} for entry in entries]
    write_json(folder / "test_many.json", {"checkpoint": str(checkpoint), "sets": sets, "metrics": dict(table)})
    columns = list(dict.fromkeys(metric for values in table.values() for metric in values))
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["set", *columns])
    rows.writerows([name, *(values.get(column, "") for column in columns)] for name, values in table.items())
    with write_atomically(folder / "test_many.csv") as file:
        file.write(text.getvalue().encode())
    print_log(
        f"{checkpoint} on {len(sets)} test sets:\n{many_table(table)}\nwritten to {folder / 'test_many.json'} and .csv",
        logger="current",
    )
