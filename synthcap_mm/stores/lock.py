"""One job at a time on a store: two would write, sweep and finish across each other."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from synthcap_mm.stores.errors import StoreError, explain_os_error

LOCK_NAME = ".lock"
#: Seconds between two signs of life, and without one until a job on another machine counts as dead.
_BEAT, _DEAD_AFTER = 20.0, 300.0
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class StoreLock:
    """Holds a store's folder for one job (a context manager; one rank of a job takes it).

    The kernel holds the lock (``flock``), so that a job that was killed leaves
    none behind, whatever its process number is now used for. On a file system
    that does not carry such locks to other machines, the file says who holds it,
    and its time is refreshed; a job of another machine without a sign of life
    for five minutes counts as dead. Times are the file system's, not the clocks'.

    Args:
        path: the store's folder; made if need be.

    Raises:
        StoreError: on entering, if another job holds the store (named with its
            machine, process and start), or the folder cannot be written in.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.file = self.path / LOCK_NAME
        self._handle: int | None = None
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> StoreLock:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._handle = self._acquire()
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        self._beating = threading.Thread(target=self._beat, name="store lock", daemon=True)
        self._beating.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
        if self._handle is not None:
            # Removed while it is still held: who opened it meanwhile sees that its file is gone, and tries again.
            with contextlib.suppress(OSError):
                self.file.unlink()
            os.close(self._handle)
            self._handle = None

    def _acquire(self) -> int:
        while True:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _flock(handle):
                    raise StoreError(self._refusal(self._holder(handle)))
                try:
                    same = os.stat(self.file).st_ino == os.fstat(handle).st_ino
                except FileNotFoundError:
                    same = False
                if not same:
                    os.close(handle)
                    continue
                holder = self._holder(handle)
                if holder.get("host", socket.gethostname()) != socket.gethostname():
                    silent = self._now() - os.fstat(handle).st_mtime
                    if silent < _DEAD_AFTER:
                        raise StoreError(self._refusal(holder, silent))
                mine = {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "user": _user(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                    "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                }
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(mine).encode(), 0)
                return handle
            except BaseException:
                with contextlib.suppress(OSError):
                    os.close(handle)
                raise

    def _now(self) -> float:
        """The time by the clock of the store's file system."""
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=".clock.", suffix=".tmp") as file:
            file.write(b"0")
            file.flush()
            return os.fstat(file.fileno()).st_mtime

    @staticmethod
    def _holder(handle: int) -> dict[str, Any]:
        try:
            holder = json.loads(os.pread(handle, 1 << 16, 0) or b"{}")
        except ValueError:  # cut short by a full disk
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refusal(self, holder: dict[str, Any], silent: float | None = None) -> str:
        who = f"process {holder['pid']} of {holder['user']} on {holder['host']}" if "pid" in holder else "another job"
        since = f", at work since {holder['since']} ({holder['command']})" if "since" in holder else ""
        life = (
            ""
            if silent is None
            else f" Its last sign of life is {silent:.0f} s old; after {_DEAD_AFTER:.0f} s it counts as dead."
        )
        return (
            f"another job is at work on the store {self.path}: {who}{since}.{life} Two jobs on one store would spoil "
            "each other: wait for it or stop it, or use more ranks (tools/dist_synthesize.sh). Nothing was touched."
        )

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._handle)


def _flock(handle: int) -> bool:
    """Whether the lock is ours; also where the file system knows no locks, for then the file's words decide."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
