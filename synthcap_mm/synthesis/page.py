"""The page that :mod:`~synthcap_mm.synthesis.inspection`'s findings are shown on: one HTML file, nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from synthcap_mm.files import write_atomically
from synthcap_mm.store import Store
from synthcap_mm.store.store import view_file
from synthcap_mm.store.tables import facts_of
from synthcap_mm.synthesis.curation import report_table
from synthcap_mm.synthesis.encoding import default_device
from synthcap_mm.synthesis.inspection import Findings, inspect_store, real_photo_features
from synthcap_mm.synthesis.redrawing import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels of a picture's longer side on the page.
THUMBNAIL = 224
#: Of the sets of points, in their order; real photos have their own.
_COLOURS, _OF_PHOTOS = ("#1a5fb4", "#e66100", "#9141ac"), "#26a269"
_PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
)


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
    width, height, left, right, top, bottom = 520, 220, 84, 20, 26, 30
    counts, edges = histogram["counts"], histogram["edges"]
    if not histogram["pairs"]:
        return f"<p>{html.escape(title)}: no usable pair</p>"
    most, step = max(counts), (width - left - right) / len(counts)
    low, high = edges[0], edges[-1]

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

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
        f'<svg width="{width}" height="{height}" role="img" aria-label="{html.escape(title)}">'
        f'<text x="{left}" y="16">{html.escape(title)}: {histogram["pairs"]:,} pairs, mean {mean:.3f}</text>'
        f"{bars}{ticks}"
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{most:,}</text>'
        f'<line x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{top}" y2="{height - bottom}" stroke="#222" '
        f'stroke-dasharray="4 3"/></svg>'
    )


def scatter_html(points: dict[str, np.ndarray], explained: tuple[float, float]) -> str:
    """Sets of points in the plane, each in its colour, below a legend."""
    width, height, margin = 720, 480, 30
    everything = np.concatenate(list(points.values()))
    low, high = everything.min(0), everything.max(0)
    scale = min(
        (width - 2 * margin) / max(high[0] - low[0], 1e-9), (height - 2 * margin - 20) / max(high[1] - low[1], 1e-9)
    )
    parts, legend = [], []
    for number, (name, xy) in enumerate(points.items()):
        colour = _OF_PHOTOS if name == "real photos" else _COLOURS[number]
        placed = (np.asarray(xy) - low) * scale
        dots = "".join(f'<circle cx="{margin + a:.1f}" cy="{height - margin - b:.1f}" r="2"/>' for a, b in placed)
        parts.append(f'<g fill="{colour}" fill-opacity=".5">{dots}</g>')
        legend.append(f'<span><b style="color:{colour}">●</b> {html.escape(name)} ({len(xy)})</span>')
    axes = f"first two principal components: {100 * explained[0]:.1f} % and {100 * explained[1]:.1f} % of the variance"
    return (
        f'<p class="legend">{"".join(legend)}</p>'
        f'<svg width="{width}" height="{height}" role="img" aria-label="modality gap">{"".join(parts)}'
        f'<text x="{margin}" y="{height - 6}">{axes}</text></svg>'
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
    return _PAGE.render(
        title=title,
        findings=findings,
        load=load,
        facts=facts or {},
        note=note,
        curation=curation,
        picture_html=picture_html,
        histogram_svg=histogram_svg,
        scatter_html=scatter_html,
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
        **{f"encoder {name}": encoder["name"] for name, encoder in store.other_encoders.items()},
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
        f"{findings.scores[pairs]['mean']:.4f}; centres of captions and {findings.images} "
        f"{findings.gap[findings.images]['centres']:.3f} apart; {findings.counts['flagged images']} images flagged; "
        f"page: {path}",
        logger="current",
    )
    return path
