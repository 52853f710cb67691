"""Whatever stands in an export: nothing outside of it is opened, started or asked."""

import contextlib
import json
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.files import file_sha256
from synthcap_mm.inference.inferencer import CaptionInferencer

PACKAGE = Path(__file__).resolve().parents[2]
EVIL = "evil_module_of_a_stranger"


def hostile_values(folder):
    """What somebody with bad intentions would write: twenty values."""
    return [
        "subprocess.Popen", "os.system", "builtins.exec", "synthcap_mm.os.system", "mmengine.Config.fromfile",
        EVIL, str(folder / EVIL), f"{folder / EVIL}.py", f"{folder / EVIL}.json", "../outside/victim.json",
        "/etc/passwd", "hf-hub:evil/model", "local-dir:" + str(folder), "https://127.0.0.1:9/evil.safetensors",
        "evil/gpt2", {"type": "subprocess.Popen", "args": ["touch", "executed"]},
        {"type": f"{EVIL}.Thing"}, {"$file": "../outside/victim.json"}, {"$file": f"{EVIL}.py"},
        {"trust_remote_code": True, "type": "OpenCLIPBackbone", "pretrained": "evil"},
    ]  # fmt: skip


def places(value, path=()):
    """Where a text, an object, a number or a list stands in a JSON value; for objects also a key of one's own."""
    yield path
    if isinstance(value, dict):
        yield (*path, "new key")
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value[:2]):
            yield from places(one, (*path, number))


def with_value(content, path, value):
    content = json.loads(json.dumps(content))
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


class Watch:
    """Notes what is opened outside of some folders, started, connected to, or imported from the export."""

    def __init__(self):
        self.seen, self.inside = [], None
        sys.addaudithook(self.hook)

    def hook(self, event, args):
        if self.inside is None:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
                     "socket.getaddrinfo", "os.mkdir", "os.remove", "os.rename", "os.symlink"):  # fmt: skip
            if event.startswith("os.") and self._is_inside(args[0]):
                return
            self.seen.append((event, str(args)[:200]))
        elif event == "open" and isinstance(args[0], (str, bytes)) and not self._is_inside(args[0]):
            self.seen.append((event, str(args[0])))
        elif event == "import" and EVIL in str(args[0]):
            self.seen.append((event, args[0]))

    def _is_inside(self, path):
        return str(Path(str(path)).absolute()).startswith(self.inside) and EVIL not in str(path)

    @contextlib.contextmanager
    def of(self, folder, scratch):
        roots = {PACKAGE / "synthcap_mm", folder, scratch, "/dev", "/proc", "/sys", sys.prefix, sys.base_prefix}
        roots |= {sysconfig.get_paths()["stdlib"], *(path for path in sys.path if "site-packages" in path)}
        self.seen.clear()
        self.inside = tuple(str(root) for root in roots)
        try:
            yield
        finally:
            self.inside = None


@pytest.fixture(scope="module")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def victim(full_export, tmp_path_factory):
    """A copy of an export with a module and a json beside it that are not listed, and a file outside."""
    root = tmp_path_factory.mktemp("hostile")
    folder = root / "export"
    shutil.copytree(full_export, folder)
    (folder / f"{EVIL}.py").write_text("raise SystemExit('executed')")
    (folder / f"{EVIL}.json").write_text('{"type": "subprocess.Popen", "args": ["touch", "executed"]}')
    (folder / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (folder / "encoder" / "open_clip_config.json").write_text('{"preprocess_cfg": {"mean": "evil"}}')
    (root / "outside").mkdir()
    (root / "outside" / "victim.json").write_text("{}")
    return folder


def write(folder, name, content):
    """A changed file with its right checksum."""
    (folder / name).write_text(json.dumps(content))
    if name == "export.json":
        return
    manifest = json.loads((folder / "export.json").read_text())
    path = folder / name
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (folder / "export.json").write_text(json.dumps(manifest))


def use(folder):
    captioner = CaptionInferencer.from_pretrained(folder, device="cpu")
    return captioner(Image.new("RGB", (40, 40), (200, 30, 30)))["predictions"][0]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 97])
def test_every_edit_ends_in_a_sentence_or_in_data(victim, watch, tmp_path, monkeypatch, every):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = use(victim)
    manifest = (victim / "export.json").read_bytes()
    counts = {"refused": 0, "used": 0}
    number = 0
    for name in ("config.json", "encoder/model.json", "export.json", "tokenizer.json"):
        before = (victim / name).read_bytes()
        content = json.loads(before)
        found = [path for path in places(content) if name != "tokenizer.json" or len(path) < 3]
        for path in found:
            for value in hostile_values(victim):
                number += 1
                if number % every:
                    continue
                write(victim, name, with_value(content, path, value))
                with watch.of(victim, tmp_path):
                    try:
                        result = use(victim)
                        counts["used"] += 1
                    except UserError:
                        counts["refused"] += 1
                        result = whole
                assert not watch.seen, (name, path, value, watch.seen[:3])
                assert result.keys() == whole.keys()
                (victim / name).write_bytes(before)
                (victim / "export.json").write_bytes(manifest)
    assert use(victim) == whole
    assert counts["refused"] > 5 * counts["used"] > 0 or every > 1, counts
    assert counts["refused"] > 10


def test_the_watch_sees(victim, watch, tmp_path):
    with watch.of(victim, tmp_path):
        open("/etc/passwd").close()
        with contextlib.suppress(ImportError):
            __import__(EVIL)
    assert [event for event, _ in watch.seen] == ["open", "import"]
