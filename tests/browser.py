"""A page in headless Chromium."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def opened(url, height=1000):
    """A tab of 1280 pixels' width with a page in it; skips, loudly, where there is no browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="PLAYWRIGHT ABSENT: pip install playwright")
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if chromium is None:
        pytest.skip("CHROMIUM ABSENT: apt-get install chromium to test the page in a browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": height})
        tab.goto(url)
        yield tab
        browser.close()
