"""Runs the experiments of a table: one by one or side by side; finished ones are known from a csv and not run again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from research.ledger import COLUMNS, Ledger, exclusive
from research.tables import Run, Table, config_hash, config_of, training_hash
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import score_captions
from synthcap_mm.files import write_json

#: The checkout.
ROOT = Path(__file__).resolve().parents[1]
#: All test sets of a table together, where there are several.
POOLED = "pooled"


def _commit() -> str:
    """The code's commit, with '+' if it was changed since; empty outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    # Results are written while the runs go on: they are no code.
    code = ["synthcap_mm", "configs", "tools", "research/*.py"]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
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
            raise UserError(
                f"the table {table.name} has no run {', '.join(unknown)}; its runs: {', '.join(table.runs)}"
            )
        unset = [name for name in table.environment if name not in os.environ]
        if unset:
            raise UserError(f"the table {table.name} needs the environment variable(s) {', '.join(unset)}")
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

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the test sets."""
        return self.table.tests or ("test",)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The table's metrics; of a table that names none, all that its rows have, CIDEr first."""
        found = dict.fromkeys(["CIDEr", *(c for row in self.ledger.rows for c in row if c not in COLUMNS)])
        return self.table.metrics or tuple(found)

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
    def _environment(self, *folders: str) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), *folders])
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
            raise UserError(f"{' '.join(map(str, command[1:3]))} failed; log: {log}\n  " + "\n  ".join(tail))

    def _tool(self, name: str, cfg: Config, file: Path, log: str, *arguments: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(str(file))
        tool = ROOT / "tools" / f"{name}.py"
        # A module that the config imports may lie beside it, and the tool reads a copy of the config.
        environment = self._environment(str(Path(cfg.filename).resolve().parent))
        self._call([sys.executable, tool, file, *arguments], file.parent / log, environment)

    # ---- stores
    def prepare(self, names: Sequence[str]) -> None:
        """Make the stores that runs read, one after another; those that are whole are only checked.

        Args:
            names: of the runs; the runs whose checkpoints or stores they read are included.
        """
        folder = self.work / self.table.name / "stores"
        if self.table.prepare:
            filled = [os.path.expandvars(part.replace("{python}", sys.executable)) for part in self.table.prepare]
            self._call(filled, folder / "prepare.log", self._environment())
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
                    self._tool(tool, cfg, folder / f"{name}.py", f"{tool}.log")
                    made.add(key)

    # ---- one run
    def _train(self, name: str, seed: int) -> dict[str, Any]:
        """Train, unless that is done; returns what `trained.json` holds."""
        run = self.runs[name]
        key = self._trainings[name], seed
        with exclusive(self.work / "trained"):
            folder = self.trained_folder(name, seed)
            folder.mkdir(parents=True, exist_ok=True)
        # A run beside this one may need the same training, and so may another table's process.
        with self._locks[key], exclusive(folder):
            if key in self._failed:
                raise UserError(f"the training of {name} has failed")
            note = folder / "trained.json"
            if note.is_file():
                return json.loads(note.read_text(encoding="utf-8"))
            cfg = config_of(run, seed)
            cfg.auto_synthesize = False  # prepare() made the stores: runs side by side would wait for each other there
            self._failed.add(key)
            commit = _commit()  # the checkout may have moved on when the row is written
            self._tool("train", cfg, folder / f"{name}.py", "train.log", "--work-dir", str(folder), "--resume")
            best = sorted(folder.glob("best_*.pth"))
            if len(best) != 1:
                raise UserError(f"{folder} has {len(best)} best checkpoints, one was expected; delete the folder")
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
        self._tool("test", cfg, own / f"{name}.py", "test.log", *options)
        return json.loads((own / "test_metrics.json").read_text(encoding="utf-8"))["metrics"]

    def _validate(self, name: str, seed: int) -> dict[str, Any]:
        """As :meth:`_train`, for a run that uses another's checkpoint."""
        cfg = config_of(self.runs[name], seed)
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        started = time.time()
        metrics = self._score(name, seed, cfg, "heldout")
        return {"seconds": time.time() - started, "heldout_CIDEr": metrics["CIDEr"]}

    def _test(self, name: str, seed: int) -> dict[str, float]:
        """Test once on each set; metrics by column."""
        folder = self.folder(name, seed)
        stores = {Path(entry.store).name: entry.store for entry in config_of(self.runs[name]).get("photo_stores", [])}
        found: dict[str, dict[str, float]] = {}
        for place in self.places:
            cfg = config_of(self.runs[name], seed)
            if self.table.tests:
                if place not in stores:
                    raise UserError(f"run {name}: no store {place!r} among its photo_stores ({', '.join(stores)})")
                cfg.test_dataloader.dataset.store = stores[place]
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
        return metric if self.places == ("test",) else f"{place}/{metric}"

    def images(self, name: str, seed: int, place: str) -> dict[str, Any]:
        """References, prediction and scores of each image of a run's test; empty where they are not kept here."""
        file = self.folder(name, seed) / place / "images.json"
        return json.loads(file.read_text(encoding="utf-8"))["images"] if file.is_file() else {}

    def _is_tested(self, row: Mapping[str, str]) -> bool:
        """Whether the row has the first metric of each test set."""
        return all(row.get(self.column_name(place, self.metrics[0])) for place in self.places)

    def _do(self, name: str, seed: int, tested: bool) -> None:
        run = self.runs[name]
        row = self.ledger.find(name, self.hashes[name], seed) or {}
        known = training = self._train(self._trained(run).name, seed)
        if run.of is not None:
            known = self._validate(name, seed)
        metrics = {k: v for k, v in row.items() if k not in COLUMNS}
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
            started, outcome = time.time(), "done"
            try:
                self._do(*job, tested)
            except UserError as error:
                failures.append(f"{job[0]}, seed {job[1]}: {error}")
                outcome = "failed"
            left.remove(job)
            minutes = (time.time() - started) / 60
            print_log(
                f"{job[0]}, seed {job[1]} {outcome} in {minutes:.1f} min; {self.remaining(left)}", logger="current"
            )

        if not todo:
            return
        self.prepare(list(dict.fromkeys(name for name, _ in todo)))
        print_log(f"to do: {self.remaining(left)}", logger="current")
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            list(pool.map(one, todo))
        if failures:
            raise UserError(f"{len(failures)} run(s) failed:\n" + "\n".join(failures))

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
        """Run everything that is not finished.

        Where only the best run is tested, the test waits until all runs of the table are trained.

        Raises:
            UserError: if runs failed, after the others were done; they are named.
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

    # ---- published figures
    def published_hash(self, name: str) -> str:
        """The hash of the rows that a page shows of a run: today's, or else of the newest rows of older settings."""
        own = any((row["run"], row["hash"]) == (name, self.hashes[name]) for row in self.ledger.rows)
        return self.hashes[name] if own else self.ledger.newest_hash(name) or self.hashes[name]

    def row(self, name: str, seed: int) -> dict[str, str] | None:
        """A run's row of a seed that a page shows, or ``None``."""
        return self.ledger.find(name, self.published_hash(name), seed)

    def finished(self, name: str) -> list[int]:
        """Seeds of a run that are tested, by the rows that a page shows."""
        rows = {seed: self.row(name, seed) for seed in self.seeds}
        return [seed for seed, row in rows.items() if row is not None and self._is_tested(row)]

    def column(self, name: str, metric: str) -> list[float]:
        """A run's figures of finished seeds, by the rows that a page shows."""
        rows = (self.row(name, seed) for seed in self.seeds)
        return [float(row[metric]) for row in rows if row is not None and row.get(metric)]


def heldout_scores(folder: Path) -> list[float]:
    """CIDEr on the held-out captions' pictures, validation by validation, of all parts of a training.

    Raises:
        UserError: if the training has not validated.
    """
    scores = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                scores += [float(entry["CIDEr"])] if "CIDEr" in entry else []
    if not scores:
        raise UserError(f"{folder} has no validation in its logs")
    return scores


def training_seconds(folder: Path) -> float:
    """How long a training took, all its parts together where it was stopped and resumed: by their logs."""
    seconds = 0.0
    for file in folder.glob("*/vis_data/scalars.json"):
        with contextlib.suppress(ValueError):  # a folder with another name is no part
            seconds += max(0.0, file.stat().st_mtime - time.mktime(time.strptime(file.parts[-3], "%Y%m%d_%H%M%S")))
    return seconds
