"""The page: what it answers and refuses, and in a browser."""

import asyncio
import contextlib
import http.client
import importlib.util
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import opened
from mmengine.config import Config
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
    monkeypatch.setattr(app, "MAX_CHARACTERS", 2)
    with pytest.raises(UserError, match="5 characters"):
        page.answer(photo, memory="a\nb\nc")
    assert Path(photo).exists() and os.listdir(tmp_path) == [Path(photo).name]


def test_without_a_captioner_it_says_how_to_train_one(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="`make demo`"):
        app.load_captioner(None)
    with pytest.raises(SystemExit, match=r"export\.json"):
        app.load_captioner(str(tmp_path))
    with pytest.raises(SystemExit, match="checkpoint"):
        app.load_captioner("synthcap_mini.py")


def test_a_config_and_its_checkpoint_are_a_captioner_too(app, page_export, tiny_captioner_on_page, tmp_path, photo):
    root = page_export.parent
    model = {**json.loads((root / "export" / "config.json").read_text())["model"], "store": str(root / "store")}
    parts = {"encoder": {"type": "MiniCLIP"}, "tag_provider": {"type": "MiniScenesTagger"}}
    Config({"model": model, "synthesis": {"store": str(root / "store"), **parts}}).dump(tmp_path / "mine.py")
    found = app.load_captioner(str(tmp_path / "mine.py"), str(root / "checkpoint.pth"), "cpu")
    assert found([photo])["predictions"] == tiny_captioner_on_page([photo])["predictions"]


def test_an_answer_is_described_by_what_the_captioner_has(app):
    found = {"clip_score": 0.7, "prompt_tags": ["dog"]}
    assert "CLIPScore 0.700: 2.5 times the cosine" in app.describe(found, True) and "dog" in app.describe(found, True)
    assert "Tags" not in app.describe(found, False) and app.describe({**found, "clip_score": None}, False) == ""


def test_examples(app, tmp_path):
    made = app.examples(None, tmp_path)
    assert len(made) == 8
    (tmp_path / ".env").write_text("SECRET")
    (tmp_path / "link.png").symlink_to(".env")
    photo = Image.open(made[0]).convert("RGB")
    for name in ("a.tif", "deep/a.jp2", os.fsdecode(b"deep/caf\xe9.tif")):
        (tmp_path / "deep").mkdir(exist_ok=True)
        photo.save(tmp_path / name, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    (tmp_path / "shown").mkdir()
    shown = app.examples(str(tmp_path), tmp_path / "shown")
    assert shown == [str(tmp_path / "shown" / f"{number:02}.png") for number in range(11)]
    assert Image.open(shown[0]).tobytes() == photo.tobytes() and not Image.open(shown[0]).getexif()
    with pytest.raises(UserError):
        app.examples(str(tmp_path / "nowhere"), tmp_path)


def test_it_is_served_to_this_machine_only_unless_told(app, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    args = app.parse_args()
    assert (args.host, args.model, args.checkpoint, args.allow_host) == ("127.0.0.1", None, None, [])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:7860"}, 200),
        ({"host": "LocalHost:7860", "origin": "http://localhost:7860"}, 200),
        ({"host": "[::1]:7860", "origin": "https://127.0.0.1:7860"}, 200),
        ({}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "evil.example:7860"}, 403),
        ({"host": "localhost:7860", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:7860", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:7860", "origin": "null"}, 403),
        ({"host": "localhost:7860", "content-length": "5000000"}, 413),
        ({"host": "localhost:7860", "transfer-encoding": "chunked"}, 413),
    ],
)
def test_foreign_and_large_requests_are_refused(app, headers, status):
    pytest.importorskip("gradio", reason="GRADIO ABSENT: pip install 'synthcap_mm[demo]' to test the page")
    sent, reached = [], []

    async def gradio_app(scope, receive, send):
        reached.append(scope)

    async def send(message):
        sent.append(message)

    guard = app.Guard(gradio_app, app.addresses("127.0.0.1", 7860, []))
    scope = {"type": "http", "path": "/", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(guard(scope, None, send))
    assert (len(reached) == 1) == (status == 200)
    assert [message["status"] for message in sent[:1]] == ([] if status == 200 else [status])


def test_further_names_are_allowed_with_and_without_a_port(app):
    known = app.addresses("::", 80, ["Box", "proxy.example:8080"])
    assert {"box", "box:80", "proxy.example:8080", "localhost:80", "[::]:80"} <= known


# ---- a page in a process of its own
class Served:
    """The page as a user starts it, and requests to it."""

    def __init__(self, export: Path, root: Path) -> None:
        self.tmp, self.log, self.photos = root / "tmp", root / "log", root / "photos"
        for folder in (self.tmp, self.photos):
            folder.mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (40, 30), (220, 30, 30)).save(self.photos / name)
        (self.photos / ".env").write_text("SECRET")
        (self.photos / "broken.png").write_text("no picture")
        (self.photos / "link.png").symlink_to(".env")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        path = os.pathsep.join([str(ROOT), *sys.path])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.tmp)}
        options = ["--port", str(self.port), "--examples", str(self.photos)]
        command = [sys.executable, str(ROOT / "demo" / "app.py"), str(export), *options]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)
        for _ in range(480):
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                if self.ask("GET", "/")[0] == 200:
                    return
            time.sleep(0.25)
        pytest.fail("the page did not come up: " + self.log.read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        head = f'--B\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        kind = {"Content-Type": "multipart/form-data; boundary=B"}
        return self.ask("POST", "/gradio_api/upload", head + content + b"\r\n--B--\r\n", **kind)

    def join(self, session: str, photo: str | None, memory: str | dict = "", **more: object) -> int:
        data = [photo and {"path": photo, "meta": {"_type": "gradio.FileData"}, **more}, 2, 8, 1, memory]
        body = json.dumps({"data": data, "fn_index": 0, "session_hash": session}).encode()
        return self.ask("POST", "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})[0]

    def answer(self, photo: str, memory: str | dict = "", **more: object) -> list | None:
        """What the page shows for an uploaded photo; None: Gradio refused the request."""
        session = secrets.token_hex()
        assert self.join(session, photo, memory, **more) == 200
        messages = self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()
        done = next(m for m in messages.split("data: ") if '"process_completed"' in m)
        return json.loads(done)["output"].get("data")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def serve(export, root):
    pytest.importorskip("gradio", reason="GRADIO ABSENT: pip install 'synthcap_mm[demo]' to test the page")
    return Served(export, root)


@pytest.fixture(scope="module")
def served(page_export, tmp_path_factory):
    page = serve(page_export, tmp_path_factory.mktemp("served"))
    yield page
    page.end()


@pytest.mark.slow
def test_only_the_listed_photos_are_served(served):
    def status(path):
        return served.ask("GET", f"/gradio_api/file={path}")[0]

    assert [status(next(served.tmp.glob(f"synthcap-*~*/{name}.png"))) for name in ("00", "01")] == [200, 200]
    for path in ("a.png", ".env", "broken.png", "link.png", "../log", "a.png/../.env", "%2eenv", ""):
        assert status(f"{served.photos}/{path}") == 403, path
    for path in ("/etc/passwd", "../../etc/passwd", __file__, "file:///etc/passwd", "http://127.0.0.1/"):
        assert status(path) == 403, path
    assert served.ask("GET", "/", Host="evil.example")[0] == 403


@pytest.mark.slow
def test_an_upload_is_answered_and_a_refused_one_removed(served):
    ok = json.loads(served.upload("ok ü.png", (served.photos / "a.png").read_bytes())[1])[0]
    assert served.answer(ok)[1].startswith("## ") and Path(ok).is_relative_to(served.tmp)
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, "PNG")
    odd = {"a/../../b.png": b"", "x" * 300: b"x", "🙂\n.gif": b"GIF89a", "<b>.png": bomb.getvalue(), "": b"x"}
    for name, content in odd.items():
        refused = json.loads(served.upload(name, content)[1])[0]
        message, caption = served.answer(refused)[:2]
        assert "decode" in message and not caption and not Path(refused).exists()
        assert "no longer kept" in served.answer(refused)[0]
    assert served.upload("large.png", bytes(20 * 2**20 + 1))[0] == 413
    assert served.upload("larger.png", bytes(22 * 2**20))[0] == 413
    assert served.join("s", ok, "a" * 5_000_000) == 413
    assert "1200000 characters" in served.answer(ok, "a\n" * 600_000)[0]
    assert Path(ok).exists() and not any(path.stat().st_size > 10**6 for path in served.tmp.rglob("*"))


@pytest.mark.slow
def test_no_file_or_address_that_a_request_names_is_read(served):
    ok = json.loads(served.upload("ok.png", (served.photos / "a.png").read_bytes())[1])[0]
    with socket.create_server(("127.0.0.1", 0)) as asked:
        url = f"http://127.0.0.1:{asked.getsockname()[1]}/a.png"
        for path in (
            "/etc/passwd",
            str(served.photos / "b.png"),
            "../photos/b.png",
            f"{ok}/../../../photos/b.png",
            url,
        ):
            assert served.answer(path) is None
            assert served.answer(ok, {"path": path, "meta": {"_type": "gradio.FileData"}}) is None
        assert not (served.answer(url, is_stream=True) or ["", ""])[1]
        asked.settimeout(0.1)
        with pytest.raises(TimeoutError):
            asked.accept()
    # Gradio itself refuses private addresses only; this one is public, and no connection is tried.
    assert served.answer("http://1.1.1.1/a.png") is None and "fetches nothing" in served.log.read_text()


@pytest.mark.slow
def test_the_queue_is_bounded(served):
    ok = json.loads(served.upload("ok.png", (served.photos / "a.png").read_bytes())[1])[0]
    memory = "".join(f"a cat on hill {number}\n" for number in range(5000))
    assert 503 in [served.join(f"q{number}", ok, memory + str(number)) for number in range(60)]
    while served.join("next", ok) == 503:  # until one of the others is answered
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_kept_when_it_ends(page_export, tmp_path, number):
    page = serve(page_export, tmp_path)
    try:
        assert page.upload("ok.png", (page.photos / "a.png").read_bytes())[0] == 200
        assert any(page.tmp.glob("synthcap-*~*/**/ok.png"))
        with (
            socket.create_connection(("127.0.0.1", page.port)) as half,
            socket.create_connection(half.getpeername()) as tab,
        ):
            head = f"Host: 127.0.0.1:{page.port}\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            part = '--B\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'
            half.sendall(f"POST /gradio_api/upload HTTP/1.1\r\n{head}Content-Length: 9999\r\n\r\n{part}".encode())
            tab.sendall(f"GET /gradio_api/heartbeat/x HTTP/1.1\r\n{head}\r\n".encode())
            assert tab.recv(15) == b"HTTP/1.1 200 OK"
            assert page.end(number) == 130
        assert not list(page.tmp.glob("synthcap-*~*")) and "Traceback" not in page.log.read_text()
    finally:
        page.process.kill()


@pytest.mark.slow
def test_in_a_browser(served, photo, tmp_path):
    with opened(served.url, 1150) as tab:
        from playwright.sync_api import expect

        expect.set_options(timeout=60_000)
        caption, message = tab.locator("#caption"), tab.locator("#message")
        expect(message).to_contain_text("Drop a photo, or pick an example")
        upload = tab.locator("#photo input[type=file]")

        upload.set_input_files(photo)
        expect(caption).to_contain_text(re.compile(r"\w+ \w+"))
        expect(message).to_contain_text("Tags in the prompt: ")
        first = caption.inner_text()
        assert tab.locator("#drawn img").get_attribute("src")
        expect(tab.locator("#drawn")).to_contain_text("What the detector sees")
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
