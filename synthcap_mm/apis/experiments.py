"""The runs of a results table: described by a file, run one by one or side by side, remembered in a csv."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from synthcap_mm.config_files import resolve_config, shipped_dir
from synthcap_mm.evaluation import score_captions
from synthcap_mm.files import write_atomically, write_json

#: What of a config says nothing of a run's figures; but see :func:`_deciding`.
_BESIDE = (
    "work_dir", "randomness", "default_hooks", "custom_hooks", "visualizer", "log_processor", "log_level", "inputs",
    "launcher", "resume", "load_from", "gallery", "tensorboard", "env_cfg", "config_name", "test_best",
    "auto_synthesize",
)  # fmt: skip
#: What of the rest says nothing of a training; its photos count where it reads them (:func:`training_hash`).
_ONLY_TEST = ("test_dataloader", "test_evaluator", "test_cfg", "test_photos", "val_photos")
#: Columns before the metrics; ``trained`` and ``commit`` are the code that trained and that tested.
_COLUMNS = ("run", "hash", "seed", "trained", "commit", "seconds", "heldout_CIDEr")
#: All test sets of a table together, where there are several.
POOLED = "pooled"


class ExperimentError(RuntimeError):
    """A table that cannot be read, or a run that failed; the message says which, and where its log is."""


@dataclass(frozen=True)
class Run:
    """A line of a table.

    Attributes:
        name: its key.
        title: for people.
        config: path, or name of a shipped config.
        options: settings over the config's, as ``--cfg-options`` gives them.
        of: name of the run whose checkpoints are used under this config (another memory, other beams); then nothing
            is trained here.
        reads: name of a run whose stores this one reads besides its own config's (another memory).
        x: place on the plot's axis.
    """

    name: str
    title: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    of: str | None = None
    reads: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """Runs that stand together.

    Attributes:
        name: the file's name.
        asked: what the command line calls it: its name, or the file's path.
        title: heading.
        note: what is to be known before the figures are read.
        runs: by name, in order.
        reference: name of the run that others are compared with.
        metrics: columns, the first one compared and plotted.
        seeds: how many, from 0.
        compare: more pairs of runs to be compared, the second one taken from the first.
        test: ``'all'``: each run is tested once; ``'best'``: only the run with the best held-out mean, and the
            reference.
        tests: names (last parts) of the stores of ``photo_stores`` that are tested on.
        x: the axis' title, if runs have places on one.
        prepare: command that makes the stores, where configs do not; ``{python}`` and environment variables are
            filled in.
        environment: variables that must be set.
    """

    name: str
    asked: str
    title: str
    note: str
    runs: dict[str, Run]
    reference: str
    metrics: tuple[str, ...]
    seeds: int = 3
    compare: tuple[tuple[str, str], ...] = ()
    test: str = "all"
    tests: tuple[str, ...] = ("test",)
    x: str | None = None
    prepare: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()


def table_names() -> list[str]:
    """Names of the tables that ship, sorted."""
    return sorted(path.stem for path in (shipped_dir("configs") / "_base_" / "experiments").glob("*.json"))


def read_table(name: str) -> Table:
    """A table by its name, or by the path of its file.

    Raises:
        ExperimentError: if there is none, or the file names what does not exist; with the file and the field.
    """
    file = Path(name) if name.endswith(".json") else shipped_dir("configs") / "_base_" / "experiments" / f"{name}.json"
    if not file.is_file():
        raise ExperimentError(
            f"no table {name!r}; there are {', '.join(table_names())}, or give the path of a json file"
        )
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        runs = {key: Run(key, **value) for key, value in entry.pop("runs").items()}
        lists = {k: tuple(entry[k]) for k in ("metrics", "tests", "prepare", "environment") if k in entry}
        lists["compare"] = tuple((a, b) for a, b in entry.get("compare", ()))
        table = Table(file.stem, name, runs=runs, **{**entry, **lists})
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"{file} is not a table of experiments: {error!r}") from error
    if table.reference not in runs:
        raise ExperimentError(f"{file}: reference {table.reference!r} is none of its runs ({', '.join(runs)})")
    strangers = sorted({name for pair in table.compare for name in pair} - set(runs))
    if strangers:
        raise ExperimentError(f"{file}: compare names {', '.join(strangers)}, none of its runs ({', '.join(runs)})")
    if table.test not in ("all", "best"):
        raise ExperimentError(f"{file}: test is 'all' or 'best', not {table.test!r}")
    for run in runs.values():
        if run.of is not None and (run.of not in runs or runs[run.of].of is not None):
            raise ExperimentError(f"{file}: run {run.name!r} is of {run.of!r}, which is no run that trains")
        if run.reads is not None and run.reads not in runs:
            raise ExperimentError(f"{file}: run {run.name!r} reads {run.reads!r}, none of its runs ({', '.join(runs)})")
    return table


def config_of(run: Run, seed: int = 0) -> Config:
    """The run's config with its settings; the test is not part of the training.

    Raises:
        FileNotFoundError: if there is no such config.
    """
    cfg = Config.fromfile(resolve_config(run.config), import_custom_modules=False)
    cfg.merge_from_dict(run.options)
    cfg.randomness = {"seed": seed}
    cfg.test_best = False
    return cfg


def _canonical(value: Any, roots: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _canonical(v, roots) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_canonical(v, roots) for v in value]
    if isinstance(value, str):
        # Whole folders at the start, the innermost first: one may lie in another, or be called "data".
        for name, root in sorted(roots.items(), key=lambda item: -len(item[1])):
            if value == root or value.startswith(root + "/"):
                return f"<{name}>{value[len(root) :]}"
    return value


@functools.cache
def _usual_hooks() -> list[dict[str, Any]]:
    file = shipped_dir("configs") / "_base_" / "default_runtime.py"
    return Config.fromfile(file, import_custom_modules=False).custom_hooks


def _deciding(cfg: Config) -> dict[str, Any]:
    """Settings that say something of a run's figures."""
    settings = {k: v for k, v in cfg._cfg_dict.items() if k not in _BESIDE}
    if cfg.get("load_from"):
        settings["load_from"] = cfg.load_from
    hooks = [hook for hook in cfg.get("custom_hooks") or () if hook not in _usual_hooks()]
    return {**settings, "custom_hooks": hooks} if hooks else settings


def config_hash(cfg: Config, of: str | None = None) -> str:
    """Ten hexadecimal digits of what decides a run's figures: all settings but the seed, logging and where things lie.

    Args:
        cfg: of :func:`config_of`.
        of: hash of the run whose checkpoints are used. Default ``None``: it has its own.
    """
    return _digest([_deciding(cfg), {} if of is None else {"of": of}])


def training_hash(cfg: Config) -> str:
    """Ten hexadecimal digits of what decides a training: :func:`config_hash` without what is only tested on.

    Tables that test one training in several ways, or share it with another table, train once.

    Args:
        cfg: of :func:`config_of`.
    """
    settings = {k: v for k, v in _deciding(cfg).items() if k not in _ONLY_TEST}
    photos = settings.pop("photo_stores", None) or []
    text = json.dumps(settings, default=str)
    settings["photo_stores"] = [entry for entry in photos if json.dumps(str(entry["store"])) in text]
    return _digest([settings])


def _digest(settings: list[Any]) -> str:
    # Folders that a config may take from the environment, by the variables' names.
    roots = {name: os.environ[name].rstrip("/") for name in sorted(os.environ) if name.startswith("SYNTHCAP_")}
    roots = {"0": str(shipped_dir("configs")), **{name: root for name, root in roots.items() if root}}
    text = json.dumps(_canonical(settings, roots), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> None:
    """Write a csv file, whole or not at all.

    Args:
        path: the file.
        rows: by column; columns that a row lacks are left empty.
        first: the columns that come first.
    """
    text = io.StringIO()
    names = dict.fromkeys([*first, *(k for row in rows for k in row)])
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes, and wait while one of them has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Ledger:
    """Finished runs in a csv file; each row is there whole or not at all. Several processes may write it.

    Args:
        path: the file; made with its first row.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self.rows = read_rows(self.path)

    def find(self, run: str, digest: str, seed: int) -> dict[str, str] | None:
        """The row of a run, or ``None``."""
        for row in self.rows:
            if (row["run"], row["hash"], row["seed"]) == (run, digest, str(seed)):
                return row
        return None

    def put(self, row: Mapping[str, Any]) -> None:
        """Add a row, or replace that of the same run, hash and seed."""
        new = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in row.items()}
        with self._lock, _alone_in(self.path.parent):
            self.rows = read_rows(self.path)  # with those of other processes
            same = self.find(new["run"], new["hash"], int(new["seed"]))
            self.rows = [r for r in self.rows if r is not same] + [new]
            write_rows(self.path, self.rows, _COLUMNS)


def _commit() -> str:
    """The code's commit, with '+' if it was changed since; empty outside a checkout."""
    root = shipped_dir("configs").parent
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        # Results are written into docs while the runs go on.
        code = ["synthcap_mm", "configs", "tools"]
        dirty = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


class Experiments:
    """Runs a table.

    Args:
        table: what to run.
        work_dir: folder of logs, checkpoints, predictions and scores of each image.
        ledger: of the finished runs.
        seeds: how many, from 0; ``None``: the table's.
        jobs: runs side by side, one thread each.
        only: names of runs; ``None``: all.
        options: settings over those of each run.
    """

    def __init__(
        self,
        table: Table,
        work_dir: str | os.PathLike,
        ledger: Ledger,
        seeds: int | None = None,
        jobs: int = 1,
        only: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        unknown = sorted(set(only or ()) - set(table.runs))
        if unknown:
            raise ExperimentError(
                f"the table {table.name} has no run {', '.join(unknown)}; its runs: {', '.join(table.runs)}"
            )
        unset = [name for name in table.environment if name not in os.environ]
        if unset:
            raise ExperimentError(f"the table {table.name} needs the environment variable(s) {', '.join(unset)}")
        self.table, self.work, self.ledger, self.jobs = table, Path(work_dir).resolve(), ledger, jobs
        self.runs = {
            name: Run(**{**vars(run), "options": {**run.options, **(options or {})}})
            for name, run in table.runs.items()
        }
        self.chosen = [name for name in table.runs if only is None or name in only]
        self.seeds = range(table.seeds if seeds is None else seeds)
        self.hashes: dict[str, str] = {}
        self._trainings: dict[str, str] = {}
        self._locks: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        self._failed: set[tuple[str, int]] = set()
        for name, run in sorted(self.runs.items(), key=lambda item: item[1].of is not None):
            cfg = config_of(run)
            self.hashes[name] = config_hash(cfg, run.of and self.hashes[run.of])
            if run.of is None:
                self._trainings[name] = training_hash(cfg)

    def _trained(self, run: Run) -> Run:
        """The run whose checkpoints are tested."""
        return run if run.of is None else self.runs[run.of]

    def folder(self, name: str, seed: int) -> Path:
        """Where a run keeps what its tests made."""
        return self.work / self.table.name / f"{name}-{self.hashes[name]}" / f"seed{seed}"

    def trained_folder(self, name: str, seed: int) -> Path:
        """Where the training that a run uses keeps its logs and its checkpoint; tables have these in common."""
        name = self._trained(self.runs[name]).name
        there = sorted((self.work / "trained").glob(f"*-{self._trainings[name]}"))
        return (there[0] if there else self.work / "trained" / f"{name}-{self._trainings[name]}") / f"seed{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """The checkpoint that a run is tested with.

        Raises:
            FileNotFoundError: if it is not trained yet.
        """
        folder = self.trained_folder(name, seed)
        return folder / json.loads((folder / "trained.json").read_text(encoding="utf-8"))["checkpoint"]

    # ---- one step, in a process of its own
    def _environment(self, run: Run) -> dict[str, str]:
        places = [
            str(shipped_dir("configs").parent),
            str(resolve_config(run.config).parent),
            str(resolve_config(run.config).parents[1]),
        ]
        path = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        return {**os.environ, "PYTHONPATH": path, **threads}

    def _call(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            done = subprocess.run(
                [str(c) for c in command], stdout=file, stderr=subprocess.STDOUT, env=dict(environment)
            )
        if done.returncode:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise ExperimentError(f"{' '.join(map(str, command[1:3]))} failed; log: {log}\n  " + "\n  ".join(tail))

    def _tool(self, name: str, run: Run, cfg: Config, file: Path, log: str, *arguments: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(str(file))
        tool = shipped_dir("tools") / f"{name}.py"
        self._call([sys.executable, tool, file, *arguments], file.parent / log, self._environment(run))

    # ---- stores
    def prepare(self, names: Sequence[str]) -> None:
        """Make the stores that runs read, one after another; what is there is only looked at.

        Args:
            names: of the runs; those whose checkpoints or stores they read are taken along.
        """
        folder = self.work / self.table.name / "stores"
        if self.table.prepare:
            filled = [os.path.expandvars(part.replace("{python}", sys.executable)) for part in self.table.prepare]
            self._call(filled, folder / "prepare.log", {**os.environ, "OMP_NUM_THREADS": "1"})
        made: set[str] = set()
        wanted = [run for name in names for run in (self.runs[name].of, self.runs[name].reads, name) if run is not None]
        for name in dict.fromkeys(wanted):
            run = self.runs[name]
            cfg = config_of(run)
            steps = []
            if cfg.get("auto_synthesize"):
                steps += [("synthesize", cfg.synthesis), ("encode_images", [cfg.synthesis.encoder, cfg.photo_stores])]
            curation = cfg.get("curation")
            if curation is not None and cfg.train_dataloader.dataset.get("pairs") == curation.get("name", "curated"):
                steps.append(("curate", [cfg.synthesis.store, curation]))
            for tool, settings in steps:
                key = hashlib.sha256(json.dumps([tool, settings], sort_keys=True, default=str).encode()).hexdigest()
                if key not in made:
                    self._tool(tool, run, cfg, folder / f"{name}.py", f"{tool}.log")
                    made.add(key)

    # ---- one run
    def _train(self, name: str, seed: int) -> dict[str, Any]:
        """Train, unless that is done; what is known of it."""
        run = self.runs[name]
        key = self._trainings[name], seed
        with _alone_in(self.work / "trained"):
            folder = self.trained_folder(name, seed)
            folder.mkdir(parents=True, exist_ok=True)
        # A run beside this one may need the same training, and so may another table's process.
        with self._locks[key], _alone_in(folder):
            if key in self._failed:
                raise ExperimentError(f"the training of {name} has failed")
            note = folder / "trained.json"
            if note.is_file():
                return json.loads(note.read_text(encoding="utf-8"))
            cfg = config_of(run, seed)
            cfg.auto_synthesize = False  # prepare() did it: runs side by side would meet at the stores' locks
            self._failed.add(key)
            commit = _commit()  # the checkout may have moved on when the row is written
            self._tool("train", run, cfg, folder / f"{name}.py", "train.log", "--work-dir", str(folder), "--resume")
            best = sorted(folder.glob("best_CIDEr_*.pth"))
            if len(best) != 1:
                raise ExperimentError(f"{folder} has {len(best)} best checkpoints, one was expected; delete the folder")
            known = {
                "checkpoint": best[0].name,
                "commit": commit,
                "seconds": training_seconds(folder),
                "heldout_CIDEr": max(heldout_scores(folder)),
            }
            for file in folder.glob("epoch_*.pth"):
                file.unlink()  # the best one is enough
            write_json(note, known)
            self._failed.remove(key)
            return known

    def _score(self, name: str, seed: int, cfg: Config, place: str) -> dict[str, float]:
        """Metrics of a run's checkpoint on the config's test set; each image's are kept."""
        own = self.folder(name, seed) / place
        cfg.test_evaluator.outfile_prefix = str(own / "images")
        options = (str(self.checkpoint(name, seed)), "--work-dir", str(own))
        self._tool("test", self.runs[name], cfg, own / f"{name}.py", "test.log", *options)
        return json.loads((own / "test_metrics.json").read_text(encoding="utf-8"))["metrics"]

    def _validate(self, name: str, seed: int) -> dict[str, Any]:
        """What :meth:`_train` tells, of a run that uses another's checkpoint."""
        cfg = config_of(self.runs[name], seed)
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        started = time.time()
        metrics = self._score(name, seed, cfg, "heldout")
        return {"seconds": time.time() - started, "heldout_CIDEr": metrics["CIDEr"]}

    def _test(self, name: str, seed: int) -> dict[str, float]:
        """Test once on each set; metrics by column."""
        folder = self.folder(name, seed)
        places = {Path(entry.store).name: entry.store for entry in config_of(self.runs[name]).photo_stores}
        found: dict[str, dict[str, float]] = {}
        for place in self.table.tests:
            if place not in places:
                raise ExperimentError(f"run {name}: no store {place!r} among its photo_stores ({', '.join(places)})")
            cfg = config_of(self.runs[name], seed)
            cfg.test_dataloader.dataset.store = places[place]
            found[place] = self._score(name, seed, cfg, place)
        if len(found) == 1:
            return {self.column_name(place, metric): v for place, own in found.items() for metric, v in own.items()}
        images = {f"{place}/{key}": entry for place in found for key, entry in self.images(name, seed, place).items()}
        pooled, each = score_captions(
            {key: entry["hypothesis"] for key, entry in images.items()},
            {key: entry["references"] for key, entry in images.items()},
        )
        pooled_images = {key: {**images[key], "scores": each[key]} for key in images}
        (folder / POOLED).mkdir(exist_ok=True)
        write_json(folder / POOLED / "images.json", {"metrics": pooled, "images": pooled_images})
        return {
            self.column_name(place, metric): value
            for place, own in {**found, POOLED: pooled}.items()
            for metric, value in own.items()
        }

    def column_name(self, place: str, metric: str) -> str:
        """The column of a metric on a test set: with the set's name, unless there is only ``test``."""
        return metric if self.table.tests == ("test",) else f"{place}/{metric}"

    def images(self, name: str, seed: int, place: str) -> dict[str, Any]:
        """References, prediction and scores of each image of a run's test; empty where they are not kept here."""
        file = self.folder(name, seed) / place / "images.json"
        return json.loads(file.read_text(encoding="utf-8"))["images"] if file.is_file() else {}

    def _is_tested(self, row: Mapping[str, str]) -> bool:
        """Whether the row has the first metric of each test set."""
        return all(row.get(self.column_name(place, self.table.metrics[0])) for place in self.table.tests)

    def _do(self, name: str, seed: int, tested: bool) -> None:
        run = self.runs[name]
        row = self.ledger.find(name, self.hashes[name], seed) or {}
        known = training = self._train(self._trained(run).name, seed)
        if run.of is not None:
            known = self._validate(name, seed)
        metrics = {k: v for k, v in row.items() if k not in _COLUMNS}
        seconds = float(row.get("seconds", known["seconds"]))
        if tested and not self._is_tested(row):
            started = time.time()
            metrics = {k: float(v) for k, v in self._test(name, seed).items()}
            seconds += time.time() - started
        self.ledger.put(
            {
                "run": name,
                "hash": self.hashes[name],
                "seed": seed,
                "trained": training.get("commit", ""),
                "commit": _commit(),
                "seconds": round(seconds),
                "heldout_CIDEr": known["heldout_CIDEr"],
                **metrics,
            }
        )

    # ---- all
    def missing(self, names: Sequence[str], tested: bool) -> list[tuple[str, int]]:
        """Runs that are not finished, seed by seed, so that a stopped table has whole seeds."""
        left = []
        for seed in self.seeds:
            for name in names:
                row = self.ledger.find(name, self.hashes[name], seed)
                if row is None or (tested and not self._is_tested(row)):
                    left.append((name, seed))
        return left

    def _all(self, todo: Sequence[tuple[str, int]], tested: bool) -> None:
        failures: list[str] = []
        left = list(todo)

        def one(job: tuple[str, int]) -> None:
            started, told = time.time(), "done"
            try:
                self._do(*job, tested)
            except ExperimentError as error:
                failures.append(f"{job[0]}, seed {job[1]}: {error}")
                told = "failed"
            left.remove(job)
            minutes = (time.time() - started) / 60
            print_log(f"{job[0]}, seed {job[1]} {told} in {minutes:.1f} min; {self.remaining(left)}", logger="current")

        if not todo:
            return
        self.prepare(list(dict.fromkeys(name for name, _ in todo)))
        print_log(f"to do: {self.remaining(left)}", logger="current")
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            list(pool.map(one, todo))
        if failures:
            raise ExperimentError(f"{len(failures)} run(s) failed:\n" + "\n".join(failures))

    def _expected(self, name: str) -> float | None:
        """Seconds of a run, by finished ones of the same name, else of the table; ``None`` before there is any."""
        own = [float(r["seconds"]) for r in self.ledger.rows if r["run"] == name and float(r["seconds"]) > 0]
        every = [float(r["seconds"]) for r in self.ledger.rows if float(r["seconds"]) > 0]
        seconds = own or every
        return sum(seconds) / len(seconds) if seconds else None

    def remaining(self, jobs: Sequence[tuple[str, int]]) -> str:
        """How many runs, and how many hours side by side, as a sentence."""
        expected = [self._expected(name) for name, _ in jobs]
        if any(value is None for value in expected):
            return f"{len(jobs)} runs left, hours unknown before one has finished"
        return f"{len(jobs)} runs left, about {sum(expected) / self.jobs / 3600:.1f} h"

    def run(self) -> None:
        """Everything that is not finished.

        Where only the best run is tested, that waits for all runs of the table.

        Raises:
            ExperimentError: if runs failed, after the others were done; they are named.
        """
        tested = self.table.test == "all"
        todo = self.missing(self.chosen, tested)
        self._all(todo, tested)
        if not tested:
            if self.missing(list(self.runs), False):
                print_log("the best run is tested when all runs of the table are finished", logger="current")
                return
            todo_tests = self.missing(list(dict.fromkeys([self.best(), self.table.reference])), True)
            self._all(todo_tests, True)
            todo = todo or todo_tests
        if not todo:
            print_log(
                f"nothing is run: {len(self.chosen) * len(self.seeds)} finished runs are in {self.ledger.path}. "
                "To run them here, name another folder with --out; its csv and page are its own.",
                logger="current",
            )

    def best(self) -> str:
        """The run of the table with the best held-out mean over the seeds."""
        return max(self.runs, key=lambda name: sum(self.column(name, "heldout_CIDEr")))

    def finished(self, name: str) -> list[int]:
        """Seeds of a run that are tested, by its row."""
        rows = {seed: self.ledger.find(name, self.hashes[name], seed) for seed in self.seeds}
        return [seed for seed, row in rows.items() if row is not None and self._is_tested(row)]

    def column(self, name: str, metric: str) -> list[float]:
        """A run's figures of finished seeds."""
        rows = (self.ledger.find(name, self.hashes[name], seed) for seed in self.seeds)
        return [float(row[metric]) for row in rows if row is not None and row.get(metric)]


def heldout_scores(folder: Path) -> list[float]:
    """CIDEr on the held-out captions' pictures, validation by validation, of all parts of a training.

    Raises:
        ExperimentError: if the training has not validated.
    """
    scores = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                scores += [float(entry["CIDEr"])] if "CIDEr" in entry else []
    if not scores:
        raise ExperimentError(f"{folder} has no validation in its logs")
    return scores


def training_seconds(folder: Path) -> float:
    """How long a training took, all its parts together where it was stopped and resumed: by their logs."""
    seconds = 0.0
    for file in folder.glob("*/vis_data/scalars.json"):
        with contextlib.suppress(ValueError):  # a folder with another name is no part
            seconds += max(0.0, file.stat().st_mtime - time.mktime(time.strptime(file.parts[-3], "%Y%m%d_%H%M%S")))
    return seconds


__all__ = [
    "ExperimentError", "Experiments", "Ledger", "Run", "Table", "config_hash", "config_of", "read_rows", "read_table",
    "table_names", "training_hash", "training_seconds", "write_rows",
]  # fmt: skip
