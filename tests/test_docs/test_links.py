"""The links of all pages."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_relative_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "research").rglob("*.md"),
             *(ROOT / "configs").rglob("*.md")]  # fmt: skip
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert dead == []
