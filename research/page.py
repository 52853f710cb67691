"""From finished runs to a page: means and deviations, intervals, a plot."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from research.ledger import read_rows, write_rows
from research.runner import POOLED, Experiments
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import paired_bootstrap
from synthcap_mm.files import write_atomically

#: Resamples of the images.
_RESAMPLES = 10_000
#: Columns of the file of differences.
_DIFFERENCE_KEY = ("run", "hash", "reference_hash", "test_set")
_FIGURES = ("mean_difference", "low", "high")


def mean_sd(values: list[float]) -> str:
    """``'43.1 ± 1.2'``, the deviation being the sample's, over seeds; a dash without values."""
    if not values:
        return "–"
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _places(experiments: Experiments) -> tuple[str, ...]:
    places = experiments.places
    return places if len(places) == 1 else (*places, POOLED)


def _difference(experiments: Experiments, name: str, reference: str, place: str) -> dict[str, Any] | None:
    """Paired bootstrap over the images that are kept here; ``None`` without them, or where the metric has no scores."""
    metric = experiments.metrics[0]
    scores: dict[str, list[list[float]]] = {name: [], reference: []}
    seeds = []
    for seed in experiments.seeds:
        both = {run: experiments.images(run, seed, place) for run in scores}
        if not all(both.values()):
            continue
        keys = sorted(both[name])
        if keys != sorted(both[reference]):
            raise UserError(f"{name} and {reference} were tested on other images of {place}")
        seeds.append(str(seed))
        for run, images in both.items():
            if any(metric not in images[key]["scores"] for key in keys):
                return None
            scores[run].append([images[key]["scores"][metric] for key in keys])
    if not seeds:
        return None
    found = paired_bootstrap(np.array(scores[name]), np.array(scores[reference]), samples=_RESAMPLES)
    return {"seeds": " ".join(seeds), **{column: f"{found[column]:.4f}" for column in _FIGURES}}


def differences(experiments: Experiments) -> dict[tuple[str, str, str], dict[str, float]]:
    """The first metric of each run less the reference's, over a test set's images, seeds averaged; and of the table's
    other pairs (``compare``).

    They come from the scores of each image, which stay where the runs were made; so the figures are kept in
    ``<table>_differences.csv`` beside the ledger, and a page can be written from the two files alone.

    Args:
        experiments: with what is finished.

    Returns:
        By run, that which it is compared with, and test set: ``mean_difference``, ``low`` and ``high`` of
        :func:`paired_bootstrap`. Pairs of which neither images nor kept figures are of these settings, and of the
        seeds that both have finished, are not in it.

    Raises:
        UserError: if two runs were tested on other images.
    """
    path = experiments.ledger.path.with_name(f"{experiments.table.name}_differences.csv")
    before = read_rows(path)
    kept = {tuple(row[c] for c in _DIFFERENCE_KEY): row for row in before}
    table, found = experiments.table, {}
    pairs = dict.fromkeys(
        [*((name, table.reference) for name in table.runs if name != table.reference), *table.compare]
    )
    for name, other in pairs:
        both = set(experiments.finished(name)) & set(experiments.finished(other))
        for place in _places(experiments):
            key = (name, experiments.published_hash(name), experiments.published_hash(other), place)
            # What is in the work folder was made with today's settings.
            today = key[1:3] == (experiments.hashes[name], experiments.hashes[other])
            new, old = _difference(experiments, name, other, place) if today else None, kept.get(key)
            # On another machine than the first one only some of the seeds may be there.
            if new is not None and (old is None or len(new["seeds"].split()) >= len(old["seeds"].split())):
                kept[key] = {**dict(zip(_DIFFERENCE_KEY, key, strict=True)), **new}
            if key in kept and {int(seed) for seed in kept[key]["seeds"].split()} == both:
                found[name, other, place] = {column: float(kept[key][column]) for column in _FIGURES}
    if list(kept.values()) != before:
        write_rows(path, list(kept.values()), (*_DIFFERENCE_KEY, "seeds", *_FIGURES))
    return found


def _interval(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    mean, low, high = (found[column] for column in _FIGURES)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" + (", tie" if low <= 0 <= high else "")


def section(experiments: Experiments, plot: str | None = None) -> str:
    """A table's part of the page, in Markdown; what it has of differences is kept (:func:`differences`).

    Args:
        experiments: with what is finished.
        plot: the plot's path as the page names it. Default ``None``: no plot.
    """
    table = experiments.table
    places, found = _places(experiments), differences(experiments)
    reference = table.runs[table.reference].title
    columns = [experiments.column_name(place, m) for place in places for m in experiments.metrics]
    compared = places if len(table.runs) > 1 else ()
    heads = [f"{experiments.column_name(p, experiments.metrics[0])} − {reference} [95 %]" for p in compared]
    lines = [f"## {table.title}", "", table.note, ""]
    head = ["run", "seeds", "held-out CIDEr", *columns, *heads]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, run in table.runs.items():
        finished = [s for s in experiments.seeds if experiments.row(name, s)]
        if not finished:
            continue
        cells = [run.title, str(len(finished)), mean_sd(experiments.column(name, "heldout_CIDEr"))]
        cells += [mean_sd(experiments.column(name, column)) for column in columns]
        cells += [_interval(found.get((name, table.reference, place))) for place in compared]
        lines.append(f"| {' | '.join(cells)} |")
    others = [pair for pair in table.compare if any((*pair, place) in found for place in places)]
    if others:
        heads = [experiments.column_name(place, experiments.metrics[0]) for place in places]
        lines += ["", f"| difference [95 %] | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
        for first, second in others:
            cells = [_interval(found.get((first, second, place))) for place in places]
            lines.append(f"| {table.runs[first].title} − {table.runs[second].title} | {' | '.join(cells)} |")
    rows = [row for name in table.runs for seed in experiments.seeds if (row := experiments.row(name, seed))]
    left = len(table.runs) * len(experiments.seeds) - len(rows)
    commits = sorted({r.get(column, "") for r in rows for column in ("trained", "commit")} - {""})
    command, file = f"`python -m research.run {table.asked}`", f"[{table.name}.csv](results/{table.name}.csv)"
    lines += ["", f"{command}; csv: {file}; commit {', '.join(commits) or 'unknown'}."]
    if left:
        lines[-1] += f" **{left} runs are not finished.**"
    if plot is not None:
        lines += ["", f"![{table.title}]({plot})"]
    return "\n".join(lines) + "\n"


def write_section(page: str | os.PathLike, name: str, text: str) -> None:
    """Put a table's part into the page in place of the one that is there, between two marks; others stay.

    Args:
        page: the Markdown file; made if it is not there.
        name: the table's name.
        text: its part.
    """
    path = Path(page)
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n"
    part = f"{begin}\n{text}{end}\n"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}\n", re.DOTALL)
    after = pattern.sub(lambda _: part, before) if pattern.search(before) else f"{before.rstrip()}\n\n{part}"
    with write_atomically(path) as file:
        file.write(after.encode())


def draw_plot(experiments: Experiments, path: str | os.PathLike) -> bool:
    """Means and deviations of the first metric: bars, or a line where the runs have places on an axis.

    Args:
        experiments: with what is finished.
        path: of the picture.

    Returns:
        Whether there was something to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = experiments.table
    place = _places(experiments)[-1]
    column = experiments.column_name(place, experiments.metrics[0])
    drawn = [(run, values) for run in table.runs.values() if (values := experiments.column(run.name, column))]
    if not drawn:
        return False
    means = [float(np.mean(v)) for _, v in drawn]
    spread = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for _, v in drawn]
    figure = Figure(figsize=(7, 4 if table.x else 0.8 + 0.35 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if table.x:
        series: dict[str, list[int]] = {}
        for i, (run, _) in enumerate(drawn):
            series.setdefault(run.title.split(",")[0], []).append(i)
        for title, rows in series.items():
            # A run without a place holds for all of the axis.
            if any(drawn[i][0].x is None for i in rows):
                axes.axhline(means[rows[0]], linestyle=":", color="gray", label=title)
                continue
            x, y, error = ([column[i] for i in rows] for column in ([run.x for run, _ in drawn], means, spread))
            axes.errorbar(x, y, error, marker="o", capsize=3, label=title)
        axes.set(xlabel=table.x, ylabel=column)
        axes.legend()
    else:
        axes.barh([run.title for run, _ in drawn], means, xerr=spread, color="steelblue", ecolor="black", capsize=3)
        axes.invert_yaxis()
        axes.set(xlabel=column)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return True
