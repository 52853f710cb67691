"""What is done to good inputs: to bytes, to JSON values and their text, to folders."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .watch import TOKEN

#: Texts that ``dumps`` writes as they are, without quotes: what no JSON writer makes.
_RAW = {
    "@nan": "NaN",
    "@inf": "Infinity",
    "@1e999": "1e999",
    "@digits": "9" * 100_000,
    "@small": "-0.0000000000000000000000000000001e-400",
    "@lists": "[" * 10_000 + "]" * 10_000,
    "@objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "@half": '"\\ud800"',
    "@nul": '"\\u0000"',
    "@nothing": "",
}


# ---- bytes
def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Bytes with one kind of damage, as disks, networks and people make it."""
    n = len(data)
    at, length = rng.randrange(n + 1), rng.choice((1, 4, 64, 512, 4096))
    kind = rng.choice(("flip", "flip", "flip", "flips", "cut", "cut", "insert", "zeros", "ones", "exchange", "repeat",
                       "append", "drop", "empty", "noise"))  # fmt: skip
    changed = bytearray(data)
    if kind == "flip" and n:
        changed[at % n] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(min(n, rng.choice((8, 64)))):
            changed[rng.randrange(n)] ^= rng.randrange(1, 256)
    elif kind == "cut":
        at = rng.choice((at, n - min(n, length), min(n, length)))
        del changed[at:]
    elif kind == "insert":
        changed[at:at] = rng.randbytes(length)
    elif kind in ("zeros", "ones", "noise"):
        end = min(n, at + length)
        changed[at:end] = rng.randbytes(end - at) if kind == "noise" else bytes([255 * (kind == "ones")]) * (end - at)
    elif kind == "exchange":
        other = rng.randrange(n + 1)
        changed[at : at + length], changed[other : other + length] = (
            changed[other : other + length],
            changed[at : at + length],
        )
    elif kind == "repeat":
        changed[at:at] = changed[at : at + length]
    elif kind == "append":
        changed += rng.choice((rng.randbytes(length), data[:length], b"\0" * length, b"\n"))
    elif kind == "drop":
        del changed[at : at + length]
    elif kind == "empty":
        changed.clear()
    return f"{kind} of {length} bytes at {at} of {n}", bytes(changed)


# ---- values
def hostile_texts(case: Path) -> list[str]:
    """Strings that lead elsewhere, or are code to somebody."""
    command = f"touch {case / TOKEN}"
    return [
        "../../victim", "../victim/secret.txt", "../../victim/secret.json", f"{case}/victim/secret.txt",
        f"{case}/victim/evil.py", "/etc/passwd", "/proc/self/environ", "..", "/", "~", ".",
        "os.system", "subprocess.Popen", "builtins.exec", "this.s", "fuzz_planted.Thing", "fuzz_planted", "fuzz_planted.py",
        "mmdet.CocoDataset", "torch.hub.load", "hf-hub:evil/x", "local-dir:../victim", "evil/x",
        "https://127.0.0.1:9/x", "http://127.0.0.1:9/x.pth", "http://[", "file:///etc/passwd", "s3://evil/x",
        "torchvision://resnet18", "open-mmlab://x", "pkl://x", command,
        f"__import__('os').system({command!r})", "{tags.__class__.__init__.__globals__}", "{0}", "{", "{tags:>99999999999}",
        "{tags!r:*^1000000000}", "%(x)s%n", "\0", "a\0b", "", " ", "\n", "x" * 100_000, "é" * 300, "nan", "-1", "True",
        "None", "'\"", "\u202e", "cuda:7", "meta", "__class__", "../" * 40 + "etc/passwd",
    ]  # fmt: skip


def hostile_values(case: Path) -> list[Any]:
    """Objects, numbers and raw texts that nobody expects."""
    command = f"touch {case / TOKEN}"
    return [
        {"type": "subprocess.Popen", "args": command, "shell": True},
        {"type": "subprocess.Popen", "args": ["touch", str(case / TOKEN)]},
        {"type": "os.system", "command": command},
        {"type": "builtins.exec", "source": command},
        {"type": "fuzz_planted.Thing"},
        {"type": "this.s"},
        {"_scope_": "mmdet", "type": "CocoDataset"},
        {"_delete_": True},
        {"$file": "../victim/secret.json"}, {"$file": f"{case}/victim/secret.txt"}, {"$file": "fuzz_planted.py"},
        {"$file": "config.json"}, {"$file": ["config.json"]}, {"$file": None},
        {"type": "Pretrained", "checkpoint": "../victim/evil.pth"},
        0, 1, -1, 2, 7, 2**31, 2**63, -(2**70), 10**30, 0.5, -0.5, 1e30, 1e308, 1e-320, True, False, None,
        [], {}, [[]], [None], [0], ["a"], {"a": 1}, list(range(50)), *_RAW,
    ]  # fmt: skip


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def look_up(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def set_at(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return new
    value = copy.deepcopy(value)
    look_up(value, path[:-1])[path[-1]] = new
    return value


def altered(value: Any, rng: random.Random, case: Path) -> tuple[str, Any]:
    """A JSON value of which one thing is changed."""
    # Few of the places are in the many rows of long lists.
    found = list(places(value))
    short = [path for path in found if all(not isinstance(key, int) or key < 5 for key in path)]
    path = rng.choice(short if short and rng.random() < 0.8 else found or [()])
    value = copy.deepcopy(value)
    if not path:
        return "another value", rng.choice(hostile_values(case))
    above, key = look_up(value, path[:-1]), path[-1]
    name = "/".join(map(str, path))
    kind = rng.choice(("delete", "exchange", "rename", "add", "repeat", "text", "text", "value", "value", "like"))
    if kind == "delete":
        del above[key]
    elif kind == "exchange":
        other = rng.choice(list(above) if isinstance(above, dict) else range(len(above)))
        above[key], above[other] = above[other], above[key]
        name += f" and {other}"
    elif kind == "rename" and isinstance(above, dict):
        above[rng.choice((f"{key}x", key.upper(), "", "type", "_scope_", rng.choice(hostile_texts(case))))] = above.pop(
            key
        )
    elif kind == "add" and isinstance(above, dict):
        added = rng.choice(("type", "_scope_", "init_cfg", "custom_imports", "pretrained", "device", "name", "x", "path",
                            "hf_tokenizer_name", "hf_model_name", "trust_remote_code", "tokenizer_kwargs", "store"))  # fmt: skip
        above[added] = rng.choice([*hostile_texts(case), *hostile_values(case)])
        name += f" with {added}={str(above[added])[:80]!a} beside"
    elif kind in ("repeat", "rename", "add") and isinstance(above, list):
        above.insert(key, copy.deepcopy(above[key]))
    elif kind == "like":  # of the same type
        old = above[key]
        if isinstance(old, str):
            above[key] = rng.choice((old[:-1], old[::-1], old.upper(), f"{old}.", f" {old}", old * 2))
        elif isinstance(old, (int, float)):
            above[key] = rng.choice((old + 1, -old, old * 1000, old / 2, old - 1))
        elif isinstance(old, list):
            above[key] = rng.choice((old[::-1], old[1:], old * 2))
        else:
            above[key] = None
        name += f" as {str(above[key])[:80]!a}"
    else:
        above[key] = rng.choice(hostile_texts(case) if kind == "text" else hostile_values(case))
        name += f" as {str(above[key])[:80]!a}"
    return f"{kind} {name}", value


def dumps(value: Any, rng: random.Random | None = None) -> str:
    """JSON, with raw texts in it."""
    text = json.dumps(value, ensure_ascii=rng is None or rng.random() < 0.5)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def respelled(data: bytes, rng: random.Random) -> tuple[str, bytes, bool]:
    """Another spelling of a JSON text: what was done, the text, and whether it means the same."""
    kind = rng.choice(("indent", "ascii", "bom", "only bom", "utf-16", "latin", "comma", "comment", "twice", "tail", "nul",
                       "quotes", "nested", "digits", "crlf"))  # fmt: skip
    text = data.decode()
    if kind == "indent":
        return kind, json.dumps(json.loads(text), indent=3).encode(), True
    if kind == "ascii":
        return kind, json.dumps(json.loads(text), ensure_ascii=True).encode(), True
    if kind == "crlf":
        return kind, text.replace("\n", "\r\n").encode(), True
    made = {
        "bom": lambda: b"\xef\xbb\xbf" + data,
        "only bom": lambda: b"\xef\xbb\xbf",
        "utf-16": lambda: text.encode("utf-16"),
        "latin": lambda: text.replace("a", "\xe4", 1).encode("latin-1", "replace"),
        "comma": lambda: text.rstrip()[:-1].encode() + b"," + text.rstrip()[-1:].encode(),
        "comment": lambda: b"// comment\n" + data,
        "twice": lambda: data + data,
        "tail": lambda: data + b" x",
        "nul": lambda: data.replace(b'"', b'"\0', 1),
        "quotes": lambda: data.replace(b'"', b"'"),
        "nested": lambda: b"[" * 100_000 + b"]" * 100_000,
        "digits": lambda: b"9" * 100_000,
    }
    return kind, made[kind](), False


def change_json(path: Path, rng: random.Random, case: Path) -> tuple[str, bool]:
    """Change a JSON file; returns what was done, and whether it means the same."""
    data = path.read_bytes()
    if rng.random() < 0.15:
        what, new, same = respelled(data, rng)
    else:
        what, value = altered(json.loads(data), rng, case)
        new, same = dumps(value, rng).encode("utf-8", "surrogatepass"), False
    path.write_bytes(new)
    return f"{path.name}: {what}", same


# ---- folders
def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def change_bytes(path: Path, rng: random.Random) -> str:
    what, data = damaged(path.read_bytes(), rng)
    path.write_bytes(data)
    return f"{path.name}: {what}"


def change_folder(folder: Path, rng: random.Random, case: Path) -> str:
    """Take away, exchange, link or add a file."""
    files = files_in(folder)
    path, other = rng.choice(files), rng.choice(files)
    same_kind = [one for one in files if one.suffix == path.suffix]
    kind = rng.choice(("delete", "exchange", "exchange", "replace", "link out", "link in", "folder", "loop", "plant", "rename",
                       "fifo"))  # fmt: skip
    if kind == "exchange":
        other = rng.choice(same_kind)
        held = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(held)
    elif kind == "replace":
        path.write_bytes(rng.choice(same_kind).read_bytes())
    elif kind == "link out":  # the right content, elsewhere
        target = case / "elsewhere"
        shutil.move(path, target)
        path.symlink_to(target if rng.random() < 0.5 else os.path.relpath(target, path.parent))
    elif kind == "plant":
        plant(folder, case)
    elif kind == "rename":
        path.rename(path.with_name(f"{path.name}x"))
    else:
        path.unlink()
        if kind == "link in":
            path.symlink_to(other if other != path else "nothing")
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "fifo":  # opening it waits for good
            os.mkfifo(path)
    return f"{kind} {path.relative_to(folder)}" + (f" and {other.relative_to(folder)}" if kind.startswith("ex") else "")


def plant(folder: Path, case: Path) -> None:
    """Python beside the input, by the names that libraries look for."""
    code = f"open({str(case / TOKEN)!r}, 'w').close()\nclass Thing: ...\nThing.from_pretrained = Thing\n"
    for name in ("fuzz_planted.py", "__init__.py", "sitecustomize.py", "tokenization_fuzz.py"):
        (folder / name).write_text(code)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Thing", "auto_map": {"AutoTokenizer": ["tokenization_fuzz.Thing", None]}})
    )


def one_of(rng: random.Random, *weighted: tuple[float, Callable[[], Any]]) -> Any:
    """Do one of several things, by weights."""
    chances, things = zip(*weighted)
    return rng.choices(things, chances)[0]()
