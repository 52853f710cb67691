"""What a case did that no input may make it do: an audit hook, and victims beside the input."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: In every hostile command and piece of code.
TOKEN = "FUZZ_EXECUTED"
#: Modules that nobody needs: one of the standard library, one that lies beside the input.
CANARIES = {"this", "antigravity", "fuzz_planted"}
ROOT = Path(__file__).resolve().parent.parent.parent
#: Folders beside and above the input, where ``..`` leads.
_VICTIMS = ("victim", "a/victim", "a/b/victim")
_LONG_AGO = 1_000_000_000


def plant_victims(case: Path) -> None:
    """Files around the input that are not the input's."""
    (case / "a/b/here").mkdir(parents=True)
    for place in _VICTIMS:
        folder = case / place
        folder.mkdir()
        for name, text in (("secret.txt", "a secret\n"), ("secret.json", '{"type": "this.s"}'),
                           ("evil.py", f"open({str(case / TOKEN)!r}, 'w')")):  # fmt: skip
            (folder / name).write_text(text)
            os.utime(folder / name, (_LONG_AGO, _LONG_AGO + 1))  # so that reading changes the first


def victims_touched(case: Path) -> str | None:
    """What was read or changed of the victims, by libraries too that open files without Python; ``None``: nothing."""
    for place in _VICTIMS:
        there = sorted(entry.name for entry in os.scandir(case / place)) if (case / place).is_dir() else []
        if there != ["evil.py", "secret.json", "secret.txt"]:
            return f"{place} holds {there}"
        for name in there:
            stat = os.stat(case / place / name)
            if (stat.st_atime, stat.st_mtime) != (_LONG_AGO, _LONG_AGO + 1):
                return f"{place}/{name} was {'read' if stat.st_mtime == _LONG_AGO + 1 else 'written'}"
    return None


def _readable() -> list[str]:
    python = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
    system = ("/dev", "/proc", "/sys", "/usr/lib", "/usr/share", "/usr/local/lib")
    places = {*system, *python, *map(os.path.realpath, python)}
    return [f"{place}/" for place in (*places, ROOT / "synthcap_mm", ROOT / "configs", ROOT / "tests")]


_READABLE = _readable()
_READABLE_FILES = {"/etc/mime.types", "/etc/localtime", "/etc/httpd/mime.types", "/etc/apache2/mime.types", "/etc/ssl"}
# Not os.fork, as data loaders do: the child is watched as well.
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree")  # fmt: skip


_WATCHED = {"open", "import", "ctypes.dlopen", "exec", "compile", "socket.connect", "socket.sendto",
            "socket.getaddrinfo", *_STARTS, *_CHANGES}  # fmt: skip


class Watch:
    """The audit hook of a child; it stops what is not allowed, besides noting it.

    Args:
        case: the case's folder.
        allowed: folders that may be read and written.
        ports: of servers on this machine that may be asked.
        may_resolve: whether names of hosts may be looked up.
        note: takes ``executed=`` or ``outside=``, a sentence.
    """

    def __init__(
        self, case: Path, allowed: Iterable[Path], ports: set[int], may_resolve: bool, note: Callable[..., None]
    ) -> None:
        self.case = f"{case}/"
        self.allowed = [f"{os.path.realpath(folder)}/" for folder in allowed]
        self.ports, self.may_resolve, self.note, self.busy = ports, may_resolve, note, False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.busy or event not in _WATCHED:
            return
        self.busy = True
        try:
            executed, outside = self._executed(event, args), self._outside(event, args)
            if executed:
                self.note(executed=f"{executed}, by {_caller()}")
            if outside:
                self.note(outside=f"{outside}, by {_caller()}")
        finally:
            self.busy = False
        if executed or outside:
            raise PermissionError(f"fuzz: {executed or outside}")

    def _executed(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event in _STARTS:
            return f"{event} {str(args[:2])[:100]}"
        if event == "import" and (args[0] in CANARIES or str(args[1]).startswith(self.case)):
            return f"import {args[0]}"
        if event == "ctypes.dlopen" and str(args[0]).startswith(self.case):
            return f"loaded {args[0]}"
        if event == "exec" and self._is_foreign(args[0]):
            return f"exec {args[0].co_filename}"
        if event == "compile" and TOKEN in str(args[0])[:10_000]:
            return f"compile {str(args[0])[:80]!r}"
        if event in ("socket.connect", "socket.sendto") or (event == "socket.getaddrinfo" and not self.may_resolve):
            address = args[1][:2] if event != "socket.getaddrinfo" and isinstance(args[1], tuple) else args[:2]
            if address[0] not in ("127.0.0.1", "localhost") or address[1] not in self.ports:
                return f"{event} {address}"
        return None

    def _is_foreign(self, code: Any) -> bool:
        texts = [constant for constant in code.co_consts if isinstance(constant, str)]
        return code.co_filename.startswith(self.case) or any(TOKEN in text for text in texts)

    def _outside(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            return None if self._is_allowed(args[0], writes) else f"{'wrote' if writes else 'read'} {args[0]!r}"
        if event in _CHANGES:
            places = args[:2] if event in ("os.rename", "os.link") else args[1:2] if event == "os.symlink" else args[:1]
            # Of these two, the open folder that the path is relative to.
            within = args[1] if event in ("os.remove", "os.rmdir") and args[1] >= 0 else None
            inside = all(self._is_allowed(place, True, within, True) for place in places)
            return None if inside else f"{event} {str(places)[:200]}"
        return None

    def _is_allowed(self, path: Any, writes: bool, within: int | None = None, itself: bool = False) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # a number of a file that is open
        path = os.fsdecode(path)
        if "\0" in path:
            return True  # the call fails
        if within is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{within}"), path)
        # A link counts as what it leads to, unless it is made, removed or renamed itself.
        folder, name = os.path.split(path)
        path = os.path.join(os.path.realpath(folder), name) if itself else os.path.realpath(path)
        if any(path.startswith(folder) or f"{path}/" == folder for folder in self.allowed):
            return True
        if writes:
            return path.startswith("/dev/")
        return path in _READABLE_FILES or any(path.startswith(f) or f"{path}/" == f for f in _READABLE)


def _caller() -> str:
    """The step of the package's, or the last one, that led here."""
    frame, last = sys._getframe(2), None
    while frame is not None:
        name = frame.f_code.co_filename
        last = last or f"{name}:{frame.f_lineno}"
        if "/synthcap_mm/" in name and "/tests/" not in name:
            return f"{name.rpartition('synthcap_mm/')[2]}:{frame.f_lineno} ({last})"
        frame = frame.f_back
    return str(last)
