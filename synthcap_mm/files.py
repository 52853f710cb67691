"""Files that are whole or not there, and what identifies their content."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shlex
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from synthcap_mm.errors import UserError

#: Temporary files that did not change for so many seconds were left by a killed process, on whatever host.
_ABANDONED = 86_400
#: Names of temporary files and folders; see :func:`own_file` and :func:`temporary_folder`.
_OWN = re.compile(r"(\.|synthcap-).+~(?P<pid>\d{1,9})~(?P<host>[^~]+)~(\d+\.tmp|mark)", re.DOTALL)
#: What file names cannot have on every system.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\\\\\ud800-\udfff]|^[a-zA-Z]:")

#: Files that this process holds a lock on. A loader's worker may outlive it by seconds, and must not keep them locked.
_LOCKED: set[BinaryIO] = set()
os.register_at_fork(after_in_child=lambda: [file.close() for file in _LOCKED])
#: What no text in Windows-1252 has: bytes without a character; UTF-8; a long run of other letters than ASCII's; a
#: capital or a sign within a word; letters of Icelandic or Italian that are frequent ones of Czech or Turkish in the
#: encodings of those.
_NOT_WESTERN = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\x80-\xff]{4}"
    rb"|[a-z][\x8a\x8c\x8e\x9f\xc0-\xde]|[a-z][\xa1-\xbf][a-z]|[\xd0\xdd\xde\xf0\xfd\xfe]|\xec[a-z]"
)


def inside(root: str | os.PathLike, name: Any, where: str | os.PathLike) -> Path:
    """The path of a name that a data file gives to something below ``root``.

    Args:
        root: a folder.
        name: relative to it, with ``/`` between folders.
        where: the data file, for the message.

    Raises:
        UserError: if the name is no text, or could lead out of the folder or into a terminal: empty, absolute, with
            ``..``, a backslash, a drive, a control character or half a character in it.
    """
    if not isinstance(name, str) or not name or name[0] == "/" or ".." in name.split("/") or _ODD.search(name):
        raise UserError(f"{where}: {name!r} is no name of a file in a folder; expected one like 'folder/name.jpg'")
    return Path(root, name)


def as_text(name: str | os.PathLike) -> str:
    r"""A file name that can be stored and printed: bytes that are not UTF-8 are escaped, as ``caf\xe9.png``."""
    return re.sub("[\udc80-\udcff]", lambda byte: rf"\x{ord(byte[0]) - 0xDC00:02x}", os.fspath(name))


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``path`` that is gone after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    temporary = own_file(path, f"{threading.get_ident()}.tmp")
    try:
        with naming(path), open(temporary, "xb") as file:
            yield temporary, file
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error: a write that fails (a full disk) does not say of which file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name ``path``, replacing what is there, only once it is whole and on disk.

    On an exception ``path`` stays as it was.
    """
    path = Path(path)
    with _temporary(path) as (temporary, file):
        yield file
        _sync(file)
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def write_once(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """As :func:`write_atomically`, but a file that is there by then stays: the first writer wins.

    For files whose name says what is in them, so that all writers write the same.
    """
    path = Path(path)
    with _temporary(path) as (temporary, file):
        yield file
        _sync(file)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(temporary, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder that takes the name ``path`` once it is whole; on an exception it is gone."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _own_folder(own_file(path, f"{threading.get_ident()}.tmp")) as folder:
        yield folder
        umask = os.umask(0)
        os.umask(umask)
        for part in (folder, *folder.rglob("*")):  # safetensors makes files for their owner only
            os.chmod(part, (0o777 if part.is_dir() else 0o666) & ~umask)
        os.rename(folder, path)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder among the system's temporary ones that is gone after the block."""
    hidden = own_file(Path(tempfile.gettempdir(), f"synthcap-{secrets.token_hex(4)}"), "0.tmp")
    with _own_folder(hidden.with_name(hidden.name[1:])) as folder:  # Gradio serves nothing from a hidden one
        yield folder


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    remove_abandoned(folder.parent)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def own_file(path: Path, suffix: str) -> Path:
    """A temporary name beside ``path`` with process and host, so that others can see whether its owner still runs.

    Args:
        path: what it is for.
        suffix: ``'NUMBER.tmp'`` or ``'mark'``.
    """
    return path.with_name(f".{path.name}~{os.getpid()}~{socket.gethostname()}~{suffix}")


def owner_is_gone(own: str | os.PathLike, silent: float = _ABANDONED) -> bool:
    """Whether the process of an :func:`own_file` is gone.

    Args:
        own: the file.
        silent: seconds without a change after which a process counts as gone. Default: a day.
    """
    parts = _OWN.fullmatch(Path(own).name)
    try:
        if time.time() - os.lstat(own).st_mtime > silent:
            return True
        if parts["host"] == socket.gethostname():
            os.kill(int(parts["pid"]), 0)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except PermissionError:  # somebody else's process
        pass
    return False


def remove_abandoned(folder: str | os.PathLike) -> None:
    """Remove what killed processes left in ``folder``."""
    for path in (Path(folder, name) for name in names_in(folder) if _OWN.fullmatch(name)):
        if owner_is_gone(path):
            with contextlib.suppress(FileNotFoundError, PermissionError):  # others are at it too; another user's
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def names_in(folder: str | os.PathLike) -> set[str]:
    """Names of all that lies in ``folder``; none if there is no such folder."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _raise(error: OSError) -> None:
    raise error


def all_files(
    folder: str | os.PathLike, hidden: bool = True, on_error: Callable[[OSError], None] = _raise
) -> Iterator[Path]:
    """The files in a folder, sorted by name, then those in its subfolders, then those in folders that are links.

    Each folder is entered once, by its real path, however many links lead to it.

    Args:
        folder: the folder.
        hidden: also hidden files and folders. Default ``True``.
        on_error: called with the error of each folder that cannot be listed, which must not pass for an empty one.
            Default: raise it.

    Raises:
        OSError: see ``on_error``.
    """
    seen, tops = set(), [os.fspath(folder)]
    for top in tops:  # grows by the links that are found
        for root, folders, names in os.walk(top, onerror=on_error):
            if (place := os.path.realpath(root)) in seen:
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
            tops += [path for name in folders if os.path.islink(path := os.path.join(root, name))]
            yield from (Path(root, name) for name in sorted(names) if hidden or not name.startswith("."))


@contextlib.contextmanager
def locked(path: str | os.PathLike, refusal: str) -> Iterator[None]:
    """Keep other processes out of a block by a lock on the file ``path``; it ends with its process, however that ends.

    Args:
        path: the file; made, and left empty.
        refusal: the message for a second process.

    Raises:
        UserError: ``refusal``, if another process is in the block.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError:  # not every file system has locks
            pass
        _LOCKED.add(file)
        try:
            yield
        finally:
            _LOCKED.remove(file)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; in a file name, bytes that are not UTF-8 are JSON escapes."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value in a file.

    Raises:
        UserError: see :func:`parse_json`.
        OSError: if the file cannot be read.
    """
    return parse_json(path, Path(path).read_bytes())


def parse_json(path: str | os.PathLike, text: str | bytes, first_line: int = 1) -> Any:
    """The JSON value in a text.

    Args:
        path: of the file, for messages.
        text: all of the file, or a line of it.
        first_line: number of the text's first line in the file. Default 1.

    Raises:
        UserError: if it is not UTF-8 JSON with finite numbers, or nested too deep; file, line and column are named
            as far as they are known.
    """
    where = f"{path}, line {first_line}" if first_line > 1 else str(path)
    text = decode(path, text, first_line) if isinstance(text, bytes) else text
    if not text.strip():
        raise UserError(f"{where}: empty, where JSON is expected")
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}, column {error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{where}: the JSON is nested too deep") from None
    except ValueError as error:  # an integer of thousands of digits, which Python does not convert
        raise UserError(f"{where}: the JSON has a number that cannot be read: {error}") from None


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no finite number")
    return value


def decode(path: str | os.PathLike, data: bytes, first_line: int = 1) -> str:
    """The text in UTF-8 bytes, without a byte order mark.

    Args:
        path: of the file, for messages.
        data: all of the file, or a line of it.
        first_line: number of the first line in the file. Default 1.

    Raises:
        UserError: if it is not UTF-8, or has NUL bytes; the line is named, and the encoding that the bytes show.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path, data, first_line, error.start, error.reason)) from None
    if "\0" in text:
        raise UserError(_not_utf8(path, data, first_line, data.index(b"\0"), "NUL bytes"))
    return text


def _encoding_of(data: bytes) -> str | None:
    """The encoding that bytes which are not UTF-8 show, by its name for iconv; ``None`` if they show none."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if b"\0" in data:  # the other half of each ASCII character
        halves = [data[start::2].count(0) * 4 > len(data) for start in (0, 1)]
        return {(True, False): "UTF-16BE", (False, True): "UTF-16LE"}.get(tuple(halves))
    return None if _NOT_WESTERN.search(data) else "WINDOWS-1252"


def _not_utf8(path: str | os.PathLike, data: bytes, first_line: int, start: int, reason: str) -> str:
    """What to say of bytes that are no UTF-8 text from ``start`` on."""
    line = data.count(b"\n", 0, start)
    said = f"{path}, line {first_line + line}: not UTF-8 text ({reason})"
    encoding = _encoding_of(data)
    file = shlex.quote(str(path))
    if encoding is None:
        return f"{said}. Repair the line, or convert the file: iconv -f ITS_ENCODING -t UTF-8 {file} > NEW_FILE"
    lines = data.decode(encoding, "replace").removeprefix("\ufeff").split("\n")
    sample = lines[min(line, len(lines) - 1)].strip()[:60]
    return (
        f"{said}. It looks like {encoding}, in which the line is {sample!r}; if that is right: "
        f"iconv -f {encoding} -t UTF-8 {file} > NEW_FILE"
    )


def file_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_sha256(folder: str | os.PathLike, sample: int = 1 << 16) -> str:
    """Hex SHA-256 of what tells a folder from another, without reading gigabytes.

    Names, sizes, and the beginning, middle and end of all files: weights of another training differ there
    too. Hidden files and folders do not count (``hf download`` keeps notes in them).

    Args:
        folder: the folder.
        sample: bytes read at each of the three places; files up to this size are read whole. Default 65,536.
    """
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in sorted(all_files(folder)):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        size = path.stat().st_size
        digest.update(f"{relative.as_posix()}\t{size}\n".encode())
        with open(path, "rb") as file:
            for start in sorted({0, max(0, (size - sample) // 2), max(0, size - sample)}):
                file.seek(start)
                digest.update(file.read(sample))
    return digest.hexdigest()


class HashCache:
    """SHA-256 of files, remembered by their size and time of change.

    Args:
        path: JSON file that the hashes are remembered in; written by :meth:`save`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self._known: dict[str, list[Any]] = read_json(self.path)
        except (OSError, UserError):  # only a cache
            self._known = {}
        self._changed = False

    def sha256(self, path: str | os.PathLike) -> str:
        """Hex SHA-256 of the file ``path``, which is read only if it changed since the last time."""
        name = os.path.abspath(path)
        stat = os.stat(name)
        known = self._known.get(name)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = self._known[name] = [stat.st_size, stat.st_mtime_ns, file_sha256(name)]
            self._changed = True
        return known[2]

    def save(self) -> None:
        """Remember the hashes for the next run."""
        if self._changed:
            write_json(self.path, self._known)
            self._changed = False
