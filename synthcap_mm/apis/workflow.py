"""The steps of a config, as the tools run them: synthesize, encode, train, test."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.runner import FlexibleRunner, Runner

from synthcap_mm.apis.dry_run import dry_run as measure_training
from synthcap_mm.apis.missing_inputs import missing_inputs, unread_store
from synthcap_mm.apis.runners import build_runner
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import CaptionMetric
from synthcap_mm.files import folder_sha256, write_atomically, write_json
from synthcap_mm.pairs import Curation, PairFactory, encode_photos, has_store
from synthcap_mm.pairs.curation import report_table
from synthcap_mm.pairs.factory import TABLE_OF, captions_sha256, kept_format, store_path
from synthcap_mm.pairs.inspection import inspect_store, real_photo_features
from synthcap_mm.pairs.page import make_page
from synthcap_mm.pairs.pictures import Pictures
from synthcap_mm.registry import DATASETS
from synthcap_mm.stores import Store, StoreError
from synthcap_mm.stores.shards import portable
from synthcap_mm.stores.store import read_manifest


class MissingInputsError(UserError, FileNotFoundError):
    """Files that the config names are not there; the message lists all of them."""


def _logger(cfg: Config) -> None:
    if not MMLogger.check_instance_created("synthcap_mm"):
        MMLogger.get_instance("synthcap_mm", logger_name="synthcap_mm", log_level=cfg.get("log_level", "INFO"))


def require_inputs(cfg: Config, *stages: str) -> None:
    """Refuse to begin while something is missing, and name all of it at once.

    Raises:
        MissingInputsError: if files of those stages are missing.
    """
    missing = missing_inputs(cfg, *stages)
    if missing:
        if "train" in stages and "test_dataloader" in cfg:
            # It could be trained without; but who comes for the one should not have to come again for the other.
            missing += [f"{m}  (for the test)" for m in missing_inputs(cfg, "test") if m not in missing]
        lines = "\n".join(f"  - {m}" for m in missing)
        raise MissingInputsError(
            f"{len(missing)} thing(s) that {cfg.get('config_name', 'the config')} needs are missing:\n{lines}"
        )


def _on_all_ranks(value: bool) -> bool:
    box = [value]
    broadcast_object_list(box)
    return box[0]


def _pairs_store(cfg: Config) -> str:
    """The store that ``cfg.synthesis`` makes."""
    return store_path(cfg.synthesis.store, cfg.synthesis.get("limit"))


def _stale(cfg: Config) -> list[str]:
    """What a finished store of pairs was made with and ``cfg.synthesis`` does not say, one line each.

    Only what costs no model is looked at: building the encoder for its fingerprint takes what the store saves.
    """
    asked = cfg.synthesis
    manifest = read_manifest(Path(_pairs_store(cfg)) / "manifest.json")
    generator = asked.get("generator")
    made_by = manifest.get("generator")
    pairs = [
        ("seed", manifest.get("seed"), asked.get("seed", 0)),
        ("holdout", manifest.get("holdout"), asked.get("holdout", 0.02)),
        ("images_per_caption", manifest.get("images_per_caption"), asked.get("images_per_caption", 1)),
        ("keep_images", manifest.get("keep_images"), kept_format(asked.get("keep_images", False))),
        ("generator.type", (made_by or {}).get("type"), generator and generator["type"].rsplit(".", 1)[-1]),
    ]
    if generator is None:
        # The factory records nothing of images where none were drawn.
        pairs = [p for p in pairs if p[0] not in ("images_per_caption", "keep_images")]
    for key in sorted({*(generator or {})} & {*(made_by or {})} - {"type", "model"}):
        pairs.append((f"generator.{key}", made_by[key], generator[key]))
    if generator is not None and made_by is not None and "files_sha256" in made_by and "model" in generator:
        folder = Path(generator["model"])
        if folder.is_dir():  # gone, it is not needed any more
            pairs.append(("generator.model's files", made_by["files_sha256"], folder_sha256(folder)))
    tagger, tagged_by = asked.get("tag_provider"), manifest.get("tag_provider")
    if generator is not None:
        pairs.append(("tag_provider.type", (tagged_by or {}).get("type"), tagger and tagger["type"].rsplit(".", 1)[-1]))
    encoder, name = asked.encoder, manifest["encoder"]["name"]
    if encoder["type"].endswith("OpenCLIPBackbone") and "model_name" in encoder:
        model = encoder["model_name"].rsplit("/", 1)[-1]
        pairs.append(("encoder", name, name if model in name else model))
    try:
        captions = DATASETS.build(asked.captions).read()[: asked.get("limit")]
    except OSError:  # the sentences are not needed any more
        pass
    else:
        same = manifest["captions"]["sha256"] == captions_sha256(captions)
        pairs.append(("captions", manifest["captions"]["count"], len(captions)))
        if not same and manifest["captions"]["count"] == len(captions):
            pairs.append(("captions", "other sentences", "those of synthesis.captions"))
    return _differing(pairs)


def _differing(pairs: list[tuple[str, Any, Any]]) -> list[str]:
    as_read = [(key, old, json.loads(json.dumps(new))) for key, old, new in pairs]
    return [f"{key}: the store has {old!r}, the config asks for {new!r}" for key, old, new in as_read if old != new]


def _refuse_stale_tables(cfg: Config, used: Collection[str]) -> None:
    """Refuse tables of a finished store whose own settings have changed since; synthesize makes just these anew.

    Args:
        cfg: the config.
        used: the tables that are to be used, of :data:`~synthcap_mm.pairs.factory.TABLE_OF`.

    Raises:
        StoreError: naming the tables, what has changed, and the command.
    """
    asked = cfg.synthesis
    manifest = read_manifest(Path(_pairs_store(cfg)) / "manifest.json")
    # The factory refines nothing where no images were drawn.
    refine = asked.get("refine") if asked.get("generator") is not None else None
    tokenizer = portable(asked.get("tokenizer", {"kind": "train"}))
    stale = []
    for setting, new in (("refine", refine), ("tokenizer_settings", tokenizer)):
        # Without the setting nothing is made, and a store that says nothing of it (of another maker) is not judged.
        if TABLE_OF[setting] in used and setting in manifest:
            lines = _differing([(setting.removesuffix("_settings"), manifest[setting], new)])
            stale += [f"{TABLE_OF[setting]}: {line}" for line in lines]
    if stale:
        raise StoreError(
            f"of the store {_pairs_store(cfg)}, {len(stale)} part(s) are stale, and not trained on silently:\n  "
            + "\n  ".join(stale)
            + f"\nOnly that is made anew, from the images that are there (with the same --cfg-options), by:\n"
            f"  python tools/synthesize.py {cfg.filename or cfg.get('config_name', 'CONFIG')}"
        )


def _used_tables(cfg: Config) -> set[str]:
    """What training uses of the store of ``cfg.synthesis``, of :data:`~synthcap_mm.pairs.factory.TABLE_OF`."""
    store = _pairs_store(cfg) if "synthesis" in cfg else None
    if store is None or not (Path(store) / "manifest.json").is_file():
        return set()

    def reads_refined(dataset: Any) -> bool:
        if isinstance(dataset, (list, tuple)):
            return any(map(reads_refined, dataset))
        if not isinstance(dataset, dict):
            return False
        own = dataset.get("refined") and dataset.get("store") == store and dataset.get("pairs", "default") == "default"
        return bool(own) or any(map(reads_refined, dataset.values()))

    used = {TABLE_OF["refine"]} if reads_refined(cfg.train_dataloader.dataset) else set()
    if cfg.model.get("store") == store and "tokenizer" not in cfg.model.get("data_preprocessor", {}):
        used.add(TABLE_OF["tokenizer_settings"])
    return used


def synthesize(
    cfg: Config,
    missing_only: bool = False,
    only: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the store of pairs that ``cfg.synthesis`` describes.

    Args:
        cfg: the config.
        missing_only: make nothing when a whole store is there, but refuse it
            where its manifest shows other settings than the config's. Default
            ``False``: check it against the config, and make what is missing.
        only: a single stage, ``'text'``, ``'images'``, ``'tags'`` or ``'refine'``. Default ``None``: all.
        limit: the first captions only, in a store of its own. Default ``None``: all.
        dry_run: say what would be done, measure a few batches, and leave no store. Default ``False``.

    Returns:
        Counts; see :meth:`PairFactory.run`. Nothing after a dry run.

    Raises:
        KeyError: if the config has no ``synthesis``.
        MissingInputsError: if files that it names are missing.
        StoreError: if the store there was made with other settings; see also :meth:`PairFactory.run`.
        ValueError: see :meth:`PairFactory.run`; also for ``only`` together with ``dry_run``.
    """
    _logger(cfg)
    if "synthesis" not in cfg:
        raise KeyError(f"the config {cfg.config_name} has no field 'synthesis', so there is nothing to make")
    if dry_run and only is not None:
        raise ValueError("a dry run is of all stages: --dry-run does not go with --only")
    if missing_only and _on_all_ranks(has_store(_pairs_store(cfg))):
        stale = _stale(cfg)
        if stale:
            raise StoreError(
                f"the store {_pairs_store(cfg)} was made with other settings, and is not trained on silently:\n  "
                + "\n  ".join(stale)
                + "\nGive synthesis.store (and whatever reads it) another folder, or delete this one to make it anew."
            )
        _refuse_stale_tables(cfg, TABLE_OF.values())
        return {}
    require_inputs(cfg, "synthesis")
    options = {**cfg.synthesis, **({} if limit is None else {"limit": limit})}
    factory = PairFactory(**options)
    if dry_run:
        plan = factory.dry_run()
        print_log(f"measured:\n{plan.describe()}\nNothing was made: this was a dry run.", logger="current")
        return {}
    counts = factory.run(only)
    print_log(
        "synthesize: " + ", ".join(f"{v} {k}" for k, v in counts.items()) + f"; store: {factory.store}",
        logger="current",
    )
    return counts


def encode_images(cfg: Config, missing_only: bool = False) -> dict[str, dict[str, Any]]:
    """Encode and tag the real photos of each entry of ``cfg.photo_stores``.

    Args:
        cfg: the config. The encoder and the tag provider are those of ``cfg.synthesis``.
        missing_only: leave whole stores alone. Default ``False``.

    Returns:
        Counts by store; see :func:`encode_photos`.
    """
    _logger(cfg)
    results: dict[str, dict[str, Any]] = {}
    entries = cfg.get("photo_stores", [])
    if not entries and not missing_only:
        raise KeyError(f"the config {cfg.config_name} has no field 'photo_stores', so there are no photos to encode")
    todo = [e for e in entries if not (missing_only and _on_all_ranks(has_store(e["store"])))]
    if todo:
        require_inputs(cfg, "photo_stores")
    for entry in todo:
        options = {"encoder": cfg.synthesis.encoder, "tag_provider": cfg.synthesis.get("tag_provider"), **entry}
        counts = encode_photos(**options)
        results[entry["store"]] = counts
        print_log(
            "encode: " + ", ".join(f"{v} {k}" for k, v in counts.items()) + f"; store: {entry['store']}",
            logger="current",
        )
    return results


def curate(cfg: Config, replace: bool = False) -> dict[str, Any]:
    """Make the pairs table that ``cfg.curation`` describes, in the store of ``cfg.synthesis``.

    ``cfg.curation`` has the arguments of :class:`Curation` (``store`` may be left out), or is
    a list: its ``steps`` alone.

    Args:
        cfg: the config.
        replace: replace a table of the same name that has other settings. Default ``False``.

    Returns:
        The report; see :meth:`Curation.run`.

    Raises:
        ValueError: if the config has no ``curation``, names no store, or ``curation`` has a field that is not known.
    """
    _logger(cfg)
    settings = cfg.get("curation")
    if settings is None:
        raise ValueError(
            f"the config {cfg.config_name} has no field 'curation', so there is nothing to do; e.g. "
            "curation = [dict(type='reassign')]"
        )
    settings = dict(settings) if isinstance(settings, dict) else {"steps": settings}
    if "store" in cfg.get("synthesis", {}):
        settings.setdefault("store", _pairs_store(cfg))
    settings.setdefault("store", None)
    if settings["store"] is None:
        raise ValueError(f"the config {cfg.config_name} names no store: it has neither curation.store nor synthesis")
    known = list(inspect.signature(Curation).parameters)
    unknown = sorted(set(settings) - set(known))
    if unknown or "steps" not in settings:
        wrong = f"has no field {', '.join(unknown)}" if unknown else "needs steps"
        raise ValueError(f"curation {wrong}; its fields are {', '.join(known)}")
    curation = Curation(**settings)
    report = curation.run(replace=replace)
    print_log(
        f"curate: {report_table(report)}\n  report: {curation.path / 'pairs' / curation.name / 'curation.json'}\n"
        f"  to train on it: train_dataloader.dataset.pairs={curation.name}",
        logger="current",
    )
    return report


def inspect_pairs(
    cfg: Config,
    pairs: str = "default",
    real_photos: str | None = None,
    sample: int = 48,
    out: str | None = None,
    redraw: bool = False,
    seed: int = 0,
) -> Path:
    """Write a page to look at the pairs of a config's store.

    Args:
        cfg: the config.
        pairs: name of the pairs table. Default ``'default'``.
        real_photos: folder of photos, or a store of them, for the modality gap. Default ``None``.
        sample: pairs shown. Default 48.
        out: file to write. Default ``pairs_NAME.html`` in the config's work folder.
        redraw: draw pictures that were not kept again, by their seeds. Default ``False``.
        seed: of the sample. Default 0.

    Returns:
        Path: the file.

    Raises:
        StoreError: if there is no such store or table.
        ValueError: if the config names no store, or the store has no usable pair.
        FileNotFoundError: if there is nothing at ``real_photos``.
    """
    _logger(cfg)
    synthesis = cfg.get("synthesis", {})
    if "store" not in synthesis:
        raise ValueError(f"the config {cfg.config_name} has no synthesis.store, so there are no pairs to look at")
    store = Store.open(_pairs_store(cfg))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    photos = None
    if real_photos is not None:
        photos = real_photo_features(real_photos, store, synthesis.get("encoder"), 500, device)
    findings = inspect_store(store, pairs, sample=sample, photos=photos, seed=seed)
    pictures = Pictures(store, synthesis.get("generator"), redraw, device)
    generator = store.manifest.get("generator") or {}
    facts = {
        "store": store.path,
        "encoder": store.manifest["encoder"]["name"],
        "generator": ", ".join(f"{k}={v}" for k, v in generator.items() if not isinstance(v, (dict, list))),
        "made": store.manifest.get("created"),
    }
    report = store.path / "pairs" / pairs / "curation.json"
    curation = report_table(json.loads(report.read_text("utf-8"))["report"]) if report.is_file() else None
    page = make_page(f"pairs/{pairs} of {store.path.name}", findings, pictures.load, facts, pictures.problem, curation)
    path = Path(out) if out else Path(cfg.work_dir) / f"pairs_{pairs}.html"
    with write_atomically(path) as file:
        file.write(page.encode())
    gap = findings.gap["drawings"]
    print_log(
        f"inspect: {findings.counts['usable pairs']} usable of {findings.counts['pairs']} pairs, mean score "
        f"{findings.scores[pairs]['mean']:.4f}; centres of captions and images {gap['centres']:.3f} apart; "
        f"{findings.counts['flagged images']} images flagged; page: {path}",
        logger="current",
    )
    return path


def _switch_tensorboard_on(cfg: Config) -> None:
    """Add TensorBoard to the log files, where ``cfg.tensorboard`` says so.

    Raises:
        MissingInputsError: if TensorBoard is not installed, with the command that installs it.
    """
    if not cfg.get("tensorboard"):
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingInputsError(
            f"tensorboard=True needs TensorBoard ({error}): pip install 'synthcap_mm[tensorboard]'"
        ) from error
    backends = cfg.visualizer.vis_backends
    if not any(b["type"] == "TensorboardVisBackend" for b in backends):
        backends.append({"type": "TensorboardVisBackend"})


def _trains_on_curated(cfg: Config) -> bool:
    """Whether the pairs that are trained on are those that the config's own curation makes."""
    settings = cfg.get("curation")
    if settings is None:
        return False
    name = settings.get("name", "curated") if isinstance(settings, dict) else "curated"
    dataset = cfg.train_dataloader.dataset
    return dataset.get("pairs") == name and dataset.get("store") == _pairs_store(cfg)


def train(cfg: Config, dry_run: bool = False) -> dict[str, float]:
    """Train and validate; where the config says so, make the stores first and test the best checkpoint last.

    Args:
        cfg: the config; ``auto_synthesize``, ``test_best`` and ``tensorboard`` are its switches (default ``False``).
            With ``auto_synthesize`` the pairs of ``curation`` are made too, if they are trained on.
        dry_run: take a few steps, say what the training would cost, and leave nothing behind; no store is made
            either. Default ``False``.

    Returns:
        The test metrics, if ``cfg.test_best``, else nothing; nothing after a dry run.

    Raises:
        MissingInputsError: if a store is missing, with the command that makes it,
            or if TensorBoard is asked for and not installed.
        StoreError: if ``auto_synthesize`` finds a store that was made with other settings, or would make
            one that is not trained on (``synthesis.limit``); if the refined features or the tokenizer that
            are used were made with other settings.
        DoesNotFitError: in a dry run, if a step needs more memory than the device has.
    """
    _logger(cfg)
    if cfg.get("auto_synthesize") and not dry_run:
        unread = unread_store(cfg)
        if unread:
            raise StoreError(unread)
        synthesize(cfg, missing_only=True)
        encode_images(cfg, missing_only=True)
        if _trains_on_curated(cfg):
            curate(cfg)
    require_inputs(cfg, "train")
    if used := _used_tables(cfg):
        _refuse_stale_tables(cfg, used)
    _switch_tensorboard_on(cfg)
    prepare_evaluators(cfg)
    if dry_run:
        cost = measure_training(cfg)
        text = f"a training of {cfg.config_name}:\n{cost.describe()}\nNothing was kept: this was a dry run."
        print_log(text, logger="synthcap_mm")
        return {}
    runner = build_runner(cfg)
    runner.train()
    if not cfg.get("test_best"):
        return {}
    # Rank 0 alone writes checkpoints, and the last epoch's may be the best: it must be there before any rank reads it.
    barrier()
    best = _best_checkpoint(runner)
    print_log(f"testing {best} on the test split, once", logger="current")
    if not isinstance(runner, Runner):
        # Any runner loads the checkpoint; one that needs no strategy tests, as tools/test.py does.
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = f"{runner.experiment_name}_test"
        runner = Runner.from_cfg(cfg)
    return run_test(runner, cfg, best)


def test(cfg: Config, checkpoint: str) -> dict[str, float]:
    """Metrics of a checkpoint on the test split.

    Raises:
        MissingInputsError: if the checkpoint or a store is missing.
    """
    if not Path(checkpoint).is_file():
        raise MissingInputsError(f"no checkpoint at {checkpoint}; train one: python tools/train.py {cfg.config_name}")
    require_inputs(cfg, "test")
    prepare_evaluators(cfg)
    return run_test(Runner.from_cfg(cfg), cfg, checkpoint)


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to go on from, or ``None``.

    The one that MMEngine's ``last_checkpoint`` names; where that file was lost or
    cut short by a kill, the last epoch's.
    """
    pointer = Path(work_dir) / "last_checkpoint"
    named = Path(pointer.read_text().strip() or "/nowhere") if pointer.is_file() else None
    if named is not None and named.is_file():
        return str(named)
    epochs = {int(p.stem.split("_")[1]): p for p in Path(work_dir).glob("epoch_*.pth") if p.stem[6:].isdigit()}
    return str(epochs[max(epochs)]) if epochs else None


def _best_checkpoint(runner: Runner | FlexibleRunner) -> str:
    from mmengine.hooks import CheckpointHook

    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None)
    if best is None and hook is not None and getattr(hook, "best_ckpt_path_dict", None):
        best = next(iter(hook.best_ckpt_path_dict.values()))
    best = best or runner.message_hub.runtime_info.get("best_ckpt") or getattr(hook, "last_ckpt", None)
    if best is None:
        raise RuntimeError(
            "test_best: no checkpoint was saved; set default_hooks.checkpoint.save_best='CIDEr', or test_best=False"
        )
    return str(best)


def prepare_evaluators(cfg: Config) -> None:
    """Make a config's ``CaptionMetric`` ready for the Runner.

    CLIPScore gets the encoder of ``cfg.synthesis``, which made the test store's features, unless it has one. A single
    metric becomes a list: MMEngine takes a dict with a field ``metrics`` for an evaluator's config.

    Args:
        cfg: the config; changed.
    """
    encoder = cfg.get("synthesis", {}).get("encoder")
    for name in ("val_evaluator", "test_evaluator"):
        entries = cfg.get(name)
        if isinstance(entries, dict) and entries.get("type") == "CaptionMetric":
            entries = cfg[name] = [entries]
        for entry in entries if isinstance(entries, list) else ():
            if encoder is not None and entry.get("type") == "CaptionMetric" and entry.get("encoder") is None:
                entry["encoder"] = encoder


def _chosen_by(loaded: dict[str, Any]) -> dict[str, Any] | None:
    """The validation that a checkpoint was chosen by, as it says: epoch and metrics; ``None``: there was none."""
    scalars = loaded.get("message_hub", {}).get("log_scalars", {})
    metrics = {key.removeprefix("val/"): float(v.current()) for key, v in scalars.items() if key.startswith("val/")}
    for timing in ("time", "data_time"):
        metrics.pop(timing, None)
    return {"epoch": loaded.get("meta", {}).get("epoch"), "metrics": metrics} if metrics else None


def run_test(runner: Runner, cfg: Config, checkpoint: str) -> dict[str, float]:
    """Test a checkpoint once, and write what was found into the runner's work folder.

    ``test_metrics.json`` has the test's metrics beside those of the validation that chose the epoch, and what was
    skipped and why; ``test_captions.json`` every caption with its references and scores; ``gallery.png`` some photos.

    Args:
        runner: made from ``cfg``.
        cfg: the config.
        checkpoint: file to load.

    Returns:
        The metrics.
    """
    from synthcap_mm.evaluation.reporting import KeepSamplesHook, metrics_table, save_test_gallery

    chosen_by = _chosen_by(runner.load_checkpoint(checkpoint))
    folder = Path(runner.work_dir)
    ours = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, CaptionMetric)]
    if len(ours) == 1 and ours[0].outfile_prefix is None:
        ours[0].outfile_prefix = str(folder / "test_captions")
    keep = KeepSamplesHook(cfg.get("gallery", {}).get("num", 0))
    runner.register_hook(keep)
    metrics = runner.test()
    if is_main_process():
        skipped = {name: why for metric in ours for name, why in metric.scored.skipped.items()}
        notes = {name: note for metric in ours for name, note in metric.scored.notes.items()}
        report = {
            "config": cfg.config_name,
            "checkpoint": str(checkpoint),
            "seed": runner.seed,
            "validation": chosen_by,
            "metrics": metrics,
            "skipped": skipped,
            "notes": notes,
        }
        path = folder / "test_metrics.json"
        write_json(path, json.loads(json.dumps(report, default=float)))
        table = metrics_table(metrics, skipped, notes)
        print_log(f"test metrics ({checkpoint}):\n{table}\nwritten to {path}", logger="current")
        if keep.samples:
            picture = save_test_gallery(cfg, keep.samples, folder / "gallery.png")
            if picture:
                print_log(f"gallery: {picture}", logger="current")
    barrier()
    return metrics


__all__ = [
    "MissingInputsError",
    "curate",
    "encode_images",
    "inspect_pairs",
    "require_inputs",
    "run_test",
    "synthesize",
    "test",
    "train",
]
