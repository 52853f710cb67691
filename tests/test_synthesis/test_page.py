"""The page: one file, everything in it."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import opened
from PIL import Image
from random_store import make_store

from synthcap_mm.store import Store
from synthcap_mm.synthesis.inspection import inspect_store
from synthcap_mm.synthesis.page import THUMBNAIL, histogram_svg, make_page, picture_html, scatter_html


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place, or never."""

    def __init__(self):
        super().__init__()
        self.open, self.outside = [], []

    def handle_starttag(self, tag, attrs):
        self.outside += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture()
def findings(tmp_path):
    texts = [f"caption <b>number</b> {i} & more" for i in range(60)]
    store = Store.open(make_store(tmp_path / "store", captions=60, texts=texts, flagged=(4,), heldout=(2,)))
    return inspect_store(store, sample=9, extremes=2)


def test_the_page_has_everything_and_needs_nothing(findings):
    asked = []

    def load(rows):
        asked.extend(rows)
        return [Image.new("RGB", (400, 300), (row * 4, 0, 0)) if row % 2 else None for row in rows]

    page = make_page("pairs & more", findings, load, {"store": "x<y"}, "no pictures because", "curated: 50 %")
    parser = Balanced()
    parser.feed(page)
    assert not parser.open and not parser.outside and "<script" not in page
    assert len(asked) == 9 + 2 + 2
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == sum(r % 2 for r in asked) and page.count("no picture<") == sum(r % 2 == 0 for r in asked)
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (THUMBNAIL, 168)
    assert "caption &lt;b&gt;number" in page and "<b>number" not in page and "x&lt;y" in page
    for wanted in ("dog 0.90", "Modality gap", "Flagged images", "black: 1", "c4/0", "curated: 50 %", "no pictures because",
                   "A random sample", "The lowest scores", "pairs/default: 59 pairs", "principal components"):  # fmt: skip
        assert wanted in page, wanted


def test_plots_have_all_their_data(findings):
    histogram = findings.scores["default"]
    svg = histogram_svg("scores", histogram)
    assert svg.count("<rect") == 40 and f"mean {histogram['mean']:.3f}" in svg
    assert "no usable pair" in histogram_svg("empty", {"edges": [0, 1], "counts": [0], "mean": None, "pairs": 0})
    svg = scatter_html({"captions": np.zeros((1, 2)), "drawings": np.ones((3, 2))}, (0.5, 0.25))
    assert svg.count("<circle") == 4 and "drawings (3)" in svg and "50.0 % and 25.0 %" in svg and "nan" not in svg
    assert "nan" not in scatter_html({"captions": np.zeros((2, 2))}, (0.0, 0.0))


def test_pictures_of_other_modes():
    for mode in ("L", "RGBA", "P"):
        assert "base64" in picture_html(Image.new(mode, (10, 500)))


CUT = """svgs => svgs.flatMap(svg => [...svg.querySelectorAll("text")].filter(text => {
    const [inner, outer] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
    return inner.left < outer.left || inner.right > outer.right;
}).map(text => text.textContent))"""


@pytest.mark.slow
def test_a_browser_shows_all_of_the_plots(findings, tmp_path):
    """Counts and names are as long as they come."""
    findings.scores["default"]["counts"][5] = 12_345_678
    sets = ("captions", "retrieved photos", "optimised retrieved photos", "real photos")
    findings.points = {name: np.random.default_rng(0).normal(size=(500, 2)) for name in sets}
    page = make_page("pairs", findings, lambda rows: [None] * len(rows))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with opened((tmp_path / "page.html").as_uri()) as tab:
        assert tab.locator("svg").count() == 2 and tab.locator("svg text").count() == 8
        assert tab.locator("svg").evaluate_all(CUT) == []
        legend = [box.bounding_box() for box in tab.locator(".legend span").all()]
    assert len(legend) == 4
    assert all(a["x"] + a["width"] < b["x"] or a["y"] < b["y"] for a, b in itertools.pairwise(legend))
