"""Files that are whole or not there, and what identifies their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: Seconds after which a temporary file is what a killed process left, wherever that ran.
_ABANDONED = 86_400


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``path`` that is gone after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = own_file(path, f"{threading.get_ident()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield temporary, file
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # A write that fails (a full disk) does not say of which file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


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


def own_file(path: Path, suffix: str) -> Path:
    """A file of this process's beside ``path``, of which others can tell whether its process is at work."""
    return path.with_name(f".{path.name}~{os.getpid()}~{socket.gethostname()}~{suffix}")


def owner_is_gone(own: str | os.PathLike, silent: float = _ABANDONED) -> bool:
    """Whether the process of an :func:`own_file` is gone.

    Args:
        own: the file.
        silent: seconds without a change after which a process counts as gone. Default: a day.
    """
    _, pid, host, _ = Path(own).name.split("~")
    try:
        if time.time() - os.stat(own).st_mtime > silent:
            return True
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except PermissionError:  # somebody else's process
        pass
    return False


def remove_abandoned(folder: str | os.PathLike) -> None:
    """Remove what killed processes left in ``folder``."""
    for name in names_in(folder):
        if name.startswith(".") and name.count("~") == 3 and owner_is_gone(Path(folder, name)):
            Path(folder, name).unlink(missing_ok=True)


def names_in(folder: str | os.PathLike) -> set[str]:
    """Names of all that lies in ``folder``; none if there is no such folder."""
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value in a file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


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
    for path in sorted(folder.rglob("*")):
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
        except (OSError, ValueError):  # only a cache
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
