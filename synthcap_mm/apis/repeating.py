"""The same training with several seeds: each in its own folder, and mean ± sd of what they scored."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthcap_mm.files import write_atomically, write_json


class RepeatError(RuntimeError):
    """A seed failed, or its folder holds another run; the message says what to do."""


def _settings(config_text: str, flags: Sequence[str], seed: int) -> dict[str, Any]:
    digest = hashlib.sha256(config_text.encode()).hexdigest()
    return {"config_sha256": digest, "flags": list(flags), "seed": seed}


def run_seeds(
    train: Sequence[str],
    config_text: str,
    seeds: Sequence[int],
    work_dir: str | Path,
    flags: Sequence[str] = (),
    options: Sequence[str] = (),
) -> dict[int, dict[str, Any]]:
    """Train and test once a seed, in ``WORK_DIR/seed_N``; what is finished is not run again.

    Args:
        train: the command that trains the config, without options: ``[python, tools/train.py, CONFIG]``.
        config_text: the whole config with its overrides, as text: a folder of another one is refused.
        seeds: the seeds.
        work_dir: folder of the seeds' folders.
        flags: more flags of ``tools/train.py``. Default: none.
        options: ``KEY=VALUE`` of its ``--cfg-options``. Default: none.

    Returns:
        ``test_metrics.json`` of each seed.

    Raises:
        RepeatError: if a folder holds a run with other settings, or a training ends with an error.
    """
    reports: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        folder = Path(work_dir) / f"seed_{seed}"
        settings, mark = _settings(config_text, [*flags, *options], seed), folder / "repeat.json"
        if mark.is_file():
            if json.loads(mark.read_text("utf-8")) != settings:
                raise RepeatError(
                    f"{folder} holds a run with another config or other flags, which does not count among these. Give "
                    "another --work-dir, or delete that folder"
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise RepeatError(f"{folder} holds something else than a run of tools/repeat.py; give another --work-dir")
        write_json(mark, settings)
        report = folder / "test_metrics.json"
        if not report.is_file():
            more = ["--work-dir", str(folder), "--resume", *flags]
            pairs = [*options, f"randomness.seed={seed}", "test_best=True"]
            done = subprocess.run([*train, *more, "--cfg-options", *pairs])
            if done.returncode or not report.is_file():
                raise RepeatError(
                    f"the training with seed {seed} ended with status {done.returncode}; see above, and {folder}. The "
                    "same command goes on from there, and leaves finished seeds alone"
                )
        reports[seed] = json.loads(report.read_text("utf-8"))
    return reports


def summarize(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds.

    Args:
        reports: see :func:`run_seeds`.

    Returns:
        ``seeds``; ``test`` and ``validation``, each by metric: ``mean``, ``sd`` (the sample's, n - 1; ``None`` for one
        seed) and ``values`` in the order of the seeds; ``skipped``. A metric that a seed lacks is left out.
    """

    def of(columns: list[Mapping[str, float]]) -> dict[str, Any]:
        names = [name for name in columns[0] if all(name in column for column in columns)]
        table = {name: [float(column[name]) for column in columns] for name in names}
        return {
            name: {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "values": values,
            }
            for name, values in table.items()
        }

    every = list(reports.values())
    chosen = [(report.get("validation") or {}).get("metrics", {}) for report in every]
    skipped = {name: why for report in every for name, why in report.get("skipped", {}).items()}
    return {
        "seeds": list(reports),
        "test": of([report["metrics"] for report in every]),
        "validation": of(chosen),
        "skipped": skipped,
    }


def summary_table(summary: Mapping[str, Any]) -> str:
    """The summary as text: test and validation side by side."""

    def cell(row: Mapping[str, Any] | None) -> str:
        if row is None:
            return ""
        return f"{row['mean']:.2f}" + ("" if row["sd"] is None else f" ± {row['sd']:.2f}")

    test, validation = summary["test"], summary["validation"]
    width = max((len(name) for name in [*test, *summary["skipped"]]), default=0)
    lines = [f"  {'':<{width}}  {'test':>16}  {'validation':>16}   mean ± sd of seeds {summary['seeds']}"]
    lines += [f"  {name:<{width}}  {cell(row):>16}  {cell(validation.get(name)):>16}" for name, row in test.items()]
    lines += [f"  {name:<{width}}  skipped: {why}" for name, why in summary["skipped"].items()]
    return "\n".join(lines)


def write_summary(summary: Mapping[str, Any], work_dir: str | Path) -> tuple[Path, Path]:
    """Write ``repeat.json`` and ``repeat.csv`` (a line a split and metric) into a folder, by rename."""
    folder = Path(work_dir)
    write_json(folder / "repeat.json", dict(summary))
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["split", "metric", "mean", "sd", *(f"seed_{seed}" for seed in summary["seeds"])])
    for split in ("test", "validation"):
        for name, row in summary[split].items():
            lines.writerow([split, name, row["mean"], "" if row["sd"] is None else row["sd"], *row["values"]])
    with write_atomically(folder / "repeat.csv") as file:
        file.write(text.getvalue().encode())
    return folder / "repeat.json", folder / "repeat.csv"
