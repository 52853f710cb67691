"""What is wrong with a store, in words that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from synthcap_mm.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class StoreError(UserError, RuntimeError):
    """A store that cannot be used as it is; the message says why and what to do."""


class StoreMissingError(StoreError, FileNotFoundError):
    """There is no store here, or not a whole one."""


class OtherSettingsError(StoreError):
    """A store that was made with other settings than the config's.

    Attributes:
        fields: the names of the settings that differ.
    """

    def __init__(self, message: str, fields: list[str]) -> None:
        super().__init__(message)
        self.fields = fields


def nearest_folder(path: str | os.PathLike) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def explain_os_error(error: OSError, store: Path, file: str | None = None) -> StoreError:
    """A full disk, or a folder that must not be written in, as a :class:`StoreError`.

    Args:
        error: what the operating system said.
        store: the store's folder.
        file: the file in it that was being written, for the message.
    """
    what = f"{file} of the store {store}" if file else f"in the store's folder {store}"
    if error.errno in _FULL:
        free = shutil.disk_usage(nearest_folder(store)).free
        return StoreError(
            f"the disk is full: cannot write {what} ({error.strerror}; {free / 1e6:.1f} MB are free). Finished shards "
            "are kept and nothing half-written is left: make room, and run the same command again."
        )
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"no permission to write {what} ({error.strerror}). Get the permission, or choose another folder with "
            "--cfg-options synthesis.store=FOLDER."
        )
    return StoreError(f"cannot write {what}: {error}")


@contextlib.contextmanager
def explained(store: str | os.PathLike, file: str | None = None) -> Iterator[None]:
    """Wherever a store is written: a full disk, or a folder that must not be written in, is told as what it is.

    Args:
        store: the store's folder.
        file: the file in it that is written, for the message. Default ``None``: not named.

    Raises:
        StoreError: see :func:`explain_os_error`. Other faults stay what they are.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError) or error.errno not in _FULL | _FORBIDDEN:
            raise
        raise explain_os_error(error, Path(store), file) from error
