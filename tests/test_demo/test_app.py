"""The page: what it answers and refuses, and in a browser."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from synthcap_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("demo_app", ROOT / "demo" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def page(app, tiny_captioner_on_page):
    return app.Page(tiny_captioner_on_page)


@pytest.fixture()
def photo(tmp_path):
    Image.new("RGB", (40, 30), (220, 30, 30)).save(tmp_path / "a photo ü.png")
    return str(tmp_path / "a photo ü.png")


def test_an_answer_has_everything(page, photo):
    drawn, found = page.answer(photo, beams=3)
    assert drawn.width == 480 and found["caption"] == found["captions"][0]["caption"]
    assert len(found["captions"]) == 3 and found["memory"] and found["tags"] and found["clip_score"] is not None
    assert len(page.answer(photo, beams=1)[1]["captions"]) == 1
    assert len(page.answer(photo, beams=2, length=1)[1]["caption"].split()) <= 1


def test_a_pasted_memory_is_used_for_that_answer_only(page, photo):
    before = page.answer(photo)[1]
    swapped = page.answer(photo, memory="  a blue   boat on the field \n\n")[1]
    assert swapped["memory"] == [{"caption": "a blue boat on the field", "weight": 1.0}]
    assert page.answer(photo)[1] == before
    for number in range(5):
        page.answer(photo, memory=f"a dog {number}")
    assert len(page._memories) <= 4


def test_refusals_are_sentences(page, app, tmp_path, photo, monkeypatch):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.jpg"):
        page.answer(str(tmp_path / "notes.jpg"))
    Image.new("1", (8000, 8000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=r"huge\.png.* 50 million"):
        page.answer(str(tmp_path / "huge.png"))
    monkeypatch.setattr(app, "MAX_SENTENCES", 2)
    with pytest.raises(UserError, match="3 sentences"):
        page.answer(photo, memory="a\nb\nc")
    monkeypatch.setattr(app, "MAX_BYTES", 50)
    with pytest.raises(UserError, match=r"a photo ü\.png"):
        page.answer(photo)


def test_without_a_captioner_it_says_how_to_train_one(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="`make demo`"):
        app.load_captioner(None)
    with pytest.raises(SystemExit, match=r"export\.json"):
        app.load_captioner(str(tmp_path))


def test_examples(app, tmp_path):
    made = app.examples(None, tmp_path)
    assert len(made) == 8 and app.examples(str(tmp_path), tmp_path / "unused") == made
    with pytest.raises(UserError):
        app.examples(str(tmp_path / "nowhere"), tmp_path)


def test_it_is_served_to_this_machine_only_unless_told(app, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    args = app.parse_args()
    assert (args.host, args.export) == ("127.0.0.1", None)


# ---- in a browser
@pytest.fixture()
def served(page_export, tmp_path):
    """The page in a process of its own, as a user starts it."""
    pytest.importorskip("gradio", reason="GRADIO ABSENT: pip install 'synthcap_mm[demo]' to test the page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "demo" / "app.py"), str(page_export), "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(url, timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the page did not come up: " + (tmp_path / "log").read_text())
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_in_a_browser(served, photo, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="PLAYWRIGHT ABSENT: pip install playwright")
    chromium = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if chromium is None:
        pytest.skip("CHROMIUM ABSENT: apt-get install chromium to test the page in a browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1150})
        tab.goto(served)
        expect = playwright.expect
        expect.set_options(timeout=60_000)
        caption, message = tab.locator("#caption"), tab.locator("#message")
        expect(message).to_contain_text("Drop a photo, or pick an example")
        upload = tab.locator("#photo input[type=file]")

        upload.set_input_files(photo)
        expect(caption).to_contain_text(re.compile(r"\w+ \w+"))
        expect(message).to_contain_text("Tags in the prompt: ")
        first = caption.inner_text()
        assert tab.locator("#drawn img").get_attribute("src")
        expect(tab.locator("#best")).to_contain_text(first.strip())

        (tmp_path / "wrong.txt").write_text("no picture")
        tab.locator("#photo button[aria-label*=lear], #photo button[aria-label*=emove]").first.click()
        expect(message).to_contain_text("Drop a photo, or pick an example")
        upload.set_input_files(str(tmp_path / "wrong.txt"))
        expect(message).to_contain_text("The photo wrong.txt does not decode: it is no image")
        expect(caption).to_have_text("")

        tab.locator("#examples img").nth(1).click()
        expect(caption).to_contain_text(re.compile(r"\w+ \w+"))
        tab.locator("#memory textarea").fill("a zebra on the moon")
        expect(tab.locator("#remembered")).to_contain_text("a zebra on the moon")
        if shot := os.environ.get("SYNTHCAP_SCREENSHOT"):
            tab.locator("#memory textarea").fill("")
            expect(tab.locator("#remembered")).not_to_contain_text("zebra")
            tab.wait_for_timeout(1000)
            tab.screenshot(path=shot, full_page=True)
        browser.close()
