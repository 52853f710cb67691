"""The page that :mod:`~synthcap_mm.synthesis.inspection`'s findings are shown on: one HTML file, nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from synthcap_mm.files import write_atomically
from synthcap_mm.store import Store
from synthcap_mm.store.store import view_file
from synthcap_mm.store.tables import facts_of
from synthcap_mm.synthesis.curation import report_table
from synthcap_mm.synthesis.encoding import default_device
from synthcap_mm.synthesis.inspection import Findings, SeenPair, inspect_store, real_photo_features
from synthcap_mm.synthesis.redrawing import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels of a picture's longer side on the page.
THUMBNAIL = 224
_COLOURS = {"captions": "#1a5fb4", "drawings": "#e66100", "optimised drawings": "#9141ac", "real photos": "#26a269"}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1180px;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:14px}
.card{border:1px solid #ddd;border-radius:6px;padding:8px;overflow-wrap:anywhere}
.card img,.none{display:block;width:100%;height:224px;object-fit:contain;background:#f4f4f4}
.none{line-height:224px;text-align:center;color:#999}
.score{float:right;font-weight:600}.tags{color:#1a5fb4;font-size:.85em}.id{color:#888;font-size:.8em}
.plots{display:flex;flex-wrap:wrap;gap:24px}svg text{font:12px system-ui,sans-serif;fill:#333}.note{color:#666}
"""


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def picture_html(image: Image | None) -> str:
    """A picture as a part of the page, at most :data:`THUMBNAIL` pixels; a placeholder for ``None``."""
    if image is None:
        return '<div class="none">no picture</div>'
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'


def histogram_svg(title: str, histogram: dict[str, Any]) -> str:
    """Bars of a histogram with its mean."""
    width, height, left, top, bottom = 520, 220, 46, 26, 30
    counts, edges = histogram["counts"], histogram["edges"]
    if not histogram["pairs"]:
        return f"<p>{_text(title)}: no usable pair</p>"
    most, step = max(counts), (width - left - 10) / len(counts)
    low, high = edges[0], edges[-1]

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 10)

    bars = "".join(
        f'<rect x="{left + i * step:.1f}" y="{top + (height - top - bottom) * (1 - n / most):.1f}" '
        f'width="{max(step - 1, 0.5):.1f}" height="{(height - top - bottom) * n / most:.1f}" fill="#e66100">'
        f"<title>{edges[i]:.3f} to {edges[i + 1]:.3f}: {n:,}</title></rect>"
        for i, n in enumerate(counts)
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{height - 10}" text-anchor="middle">{v:.2f}</text>' for v in np.linspace(low, high, 5)
    )
    mean = histogram["mean"]
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{_text(title)}">'
        f'<text x="{left}" y="16">{_text(title)}: {histogram["pairs"]:,} pairs, mean {mean:.3f}</text>{bars}{ticks}'
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{most:,}</text>'
        f'<line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{top}" y2="{height - bottom}" stroke="#222" '
        f'stroke-dasharray="4 3"/></svg>'
    )


def scatter_svg(points: dict[str, np.ndarray], explained: tuple[float, float]) -> str:
    """Sets of points in the plane, each in its colour."""
    width, height, margin = 720, 480, 30
    everything = np.concatenate(list(points.values()))
    low, high = everything.min(0), everything.max(0)
    scale = min(
        (width - 2 * margin) / max(high[0] - low[0], 1e-9), (height - 2 * margin - 20) / max(high[1] - low[1], 1e-9)
    )
    parts = []
    for name, xy in points.items():
        colour = _COLOURS.get(name, "#555")
        placed = (np.asarray(xy) - low) * scale
        dots = "".join(f'<circle cx="{margin + a:.1f}" cy="{height - margin - b:.1f}" r="2"/>' for a, b in placed)
        parts.append(f'<g fill="{colour}" fill-opacity=".5">{dots}</g>')
    legend = "".join(
        f'<circle cx="{margin + 6 + 172 * i}" cy="12" r="5" fill="{_COLOURS.get(name, "#555")}"/>'
        f'<text x="{margin + 16 + 172 * i}" y="16">{_text(name)} ({len(xy)})</text>'
        for i, (name, xy) in enumerate(points.items())
    )
    axes = f"first two principal components: {100 * explained[0]:.1f} % and {100 * explained[1]:.1f} % of the variance"
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="modality gap">{"".join(parts)}{legend}'
        f'<text x="{margin}" y="{height - 6}">{axes}</text></svg>'
    )


def _gap_table(gap: dict[str, Any]) -> str:
    head = (
        "<tr><th></th><th class=n>rows</th><th class=n>centre to captions' centre</th>"
        "<th class=n>cosine with own caption</th><th class=n>with other captions</th>"
        "<th class=n>within the set</th></tr>"
    )
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td class=n>{f['rows']}</td><td class=n>{_number(f.get('centres'))}</td>"
        f"<td class=n>{_number(f.get('own'))}</td><td class=n>{_number(f.get('others'))}</td>"
        f"<td class=n>{_number(f['spread'])}</td></tr>"
        for name, f in gap.items()
    )
    return f"<table>{head}{rows}</table>"


def _card(pair: SeenPair, picture: str) -> str:
    tags = ", ".join(f"{_text(name)} {score:.2f}" for name, score in pair.tags[:8]) or "no tags"
    out = "" if pair.split == "train" else " · held out"
    return (
        f'<div class="card">{picture}<span class="score">{pair.score:.3f}</span><div>{_text(pair.caption)}</div>'
        f'<div class="tags">{tags}</div><div class="id">{_text(pair.caption_id)} · image {pair.image}{out}</div></div>'
    )


def make_page(
    title: str,
    findings: Findings,
    load: Callable[[Sequence[int]], Sequence[Image | None]],
    facts: dict[str, Any] | None = None,
    note: str | None = None,
    curation: str | None = None,
) -> str:
    """The page.

    Args:
        title: its heading.
        findings: what to show.
        load: pictures of image rows, ``None`` where there is none; called for one group at a time.
        facts: what to say of the store, name → value. Default ``None``.
        note: why pictures are missing. Default ``None``.
        curation: report of the curation that made the table, as text. Default ``None``.

    Returns:
        str: HTML that needs nothing else: pictures and plots are in it.
    """
    lines = {**(facts or {}), **{k: f"{v:,}" for k, v in findings.counts.items()}}
    body = [f"<h1>{_text(title)}</h1><table>"]
    body += [f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in lines.items()]
    body.append("</table><h2>CLIP scores</h2>")
    body.append('<p class="note">Cosine of caption and image of all usable pairs; the dashed line is the mean.</p>')
    body.append('<div class="plots">')
    body += [histogram_svg(f"pairs/{name}", h) for name, h in findings.scores.items()]
    body.append("</div><table><tr><th>percentile</th>")
    shown = {name: h for name, h in findings.scores.items() if h["pairs"]}
    body += [f"<th class=n>{p}</th>" for p in next(iter(shown.values()), {"percentiles": {}})["percentiles"]]
    body.append("</tr>")
    for name, h in shown.items():
        cells = "".join(f"<td class=n>{_number(v)}</td>" for v in h["percentiles"].values())
        body.append(f"<tr><td>pairs/{_text(name)}</td>{cells}</tr>")
    body.append("</table>")
    if curation:
        body.append(f"<h2>Curation</h2><pre>{_text(curation)}</pre>")
    body.append("<h2>Modality gap</h2>")
    body.append(
        '<p class="note">Captions of the training pairs, what was drawn (or retrieved) for them, and real photos if '
        "given; a sample. Cosines are means.</p>"
    )
    body += [_gap_table(findings.gap), scatter_svg(findings.points, findings.explained)]
    for heading, pairs in findings.groups.items():
        body.append(f"<h2>{_text(heading)}</h2>")
        if note:
            body.append(f'<p class="note">{_text(note)}</p>')
        pictures = load([pair.image for pair in pairs])
        body.append('<div class="cards">')
        body += [_card(pair, picture_html(picture)) for pair, picture in zip(pairs, pictures)]
        body.append("</div>")
    body.append("<h2>Flagged images</h2>")
    if findings.flags:
        total = findings.counts["flagged images"]
        body.append(f"<p>{', '.join(f'{_text(k)}: {v:,}' for k, v in sorted(findings.flags.items()))}. ")
        body.append("The dataset and curation leave them out.</p><table>")
        for key, flags, texts in findings.flagged:
            cells = (key, ", ".join(flags), " | ".join(texts) or "–")
            body.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
        body.append("</table>")
        if total > len(findings.flagged):
            body.append(f"<p>… and {total - len(findings.flagged):,} more.</p>")
    else:
        body.append("<p>None.</p>")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


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
        UserError: if there is no such store or table, no usable pair, or nothing at ``real_photos``.
    """
    synthesis = cfg.synthesis
    store = Store.open(view_file(synthesis.store, synthesis.get("limit")))
    device = str(default_device())
    photos = None
    if real_photos is not None:
        photos = real_photo_features(real_photos, store, synthesis.encoder, 500, device)
    findings = inspect_store(store, pairs, sample=sample, photos=photos, seed=seed)
    pictures = Pictures(store, synthesis.get("generator"), redraw, device)
    generator = store.recipe("pairs/default").get("generator", {})
    facts = {
        "store": store.path,
        "encoder": store.encoder["name"],
        "generator": ", ".join(f"{k}={v}" for k, v in generator.items() if not isinstance(v, (dict, list))),
    }
    curation = facts_of(store.paths(f"pairs/{pairs}")[0]).get("report")
    report = None if curation is None else report_table(curation)
    title = f"pairs/{pairs} of {store.folder.name}"
    page = make_page(title, findings, pictures.load, facts, pictures.problem, report)
    path = Path(out) if out else Path(cfg.work_dir) / f"pairs_{pairs}.html"
    with write_atomically(path) as file:
        file.write(page.encode())
    print_log(
        f"inspect: {findings.counts['usable pairs']} usable of {findings.counts['pairs']} pairs, mean score "
        f"{findings.scores[pairs]['mean']:.4f}; centres of captions and images "
        f"{findings.gap['drawings']['centres']:.3f} apart; {findings.counts['flagged images']} images flagged; "
        f"page: {path}",
        logger="current",
    )
    return path
