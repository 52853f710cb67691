"""Reads weights from files that are not trusted: their content decides the format, and nothing in them is executed.

Every loader of the package reads with :func:`read_checkpoint`, MMEngine's ``Runner`` too (``engine/loading.py``).
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from synthcap_mm.errors import UserError, listed

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)
#: Longest header of a safetensors file; the format's own limit.
_LONGEST_HEADER = 100_000_000


@contextlib.contextmanager
def trusted_checkpoints(trusted: bool = True) -> Iterator[None]:
    """Inside this context, checkpoints may execute code: for your own files that hold more than tensors.

    Args:
        trusted: ``False`` changes nothing. Default ``True``.
    """
    token = _TRUSTED.set(trusted or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def read_checkpoint(path: str | Path, what: str = "checkpoint") -> dict[str, Any]:
    """What a checkpoint holds: tensors and plain values.

    Reads MMEngine's checkpoints, state dicts of ``torch.save``, TorchScript archives (the weights, not the code) and
    safetensors files, by their content and not by their names. An archive is compared with its own checksums first,
    which takes about as long as loading it; the other formats have none. The config in MMEngine's ``meta`` is left out:
    it is Python code, which MMEngine would execute on resuming.

    Args:
        path: the file.
        what: its name in messages. Default ``'checkpoint'``.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is damaged, cannot be read, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {str(path)!r}")
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {str(path)!r} holds more than tensors and plain values, which is not executed ({_reason(error)}). "
            "If you trust whoever made the file: --trust-checkpoint"
        ) from error
    except UserError:
        raise
    except Exception as error:  # of torch, safetensors, zipfile, pickle: damaged files raise any kind
        raise UserError(f"cannot read the {what} {str(path)!r}: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"the {what} {str(path)!r} holds a {type(content).__name__}, not weights by name")
    meta = content.get("meta")
    if isinstance(meta, dict) and not _TRUSTED.get():
        meta.pop("config", None)
    return content


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as a safetensors file does."""
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= min(_LONGEST_HEADER, path.stat().st_size - 8)


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is an archive of TorchScript, which has code beside weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def state_dict_of(checkpoint: Mapping[str, Any], where: str | Path) -> dict[str, torch.Tensor]:
    """The weights of a captioner's checkpoint.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        where: its file, for messages.

    Raises:
        UserError: if there are none, or a weight is not finite: then the training diverged.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    by_name = isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
    if not by_name or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"the checkpoint {where} has no weights by name (state_dict)")
    if bad := not_finite(weights):
        raise UserError(
            f"{len(bad)} weights of {where} are not finite ({listed(bad, 3)}): the training that wrote it diverged. "
            "Take an earlier checkpoint"
        )
    return dict(weights)


def not_finite(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or an infinity."""
    return [
        name for name, value in weights.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def local_file(address: str) -> Path:
    """The file of a path or of a URL, which is downloaded once, into torch's hub folder.

    A hash in the file's name (``…-8daa61f3.pth``, as MMEngine's projects name theirs) is compared.

    Args:
        address: a path, or ``http(s)://…``.

    Raises:
        UserError: if it cannot be downloaded.
    """
    if not address.startswith(("http://", "https://")):
        return Path(address).expanduser()
    name = address.partition("?")[0].rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = re.search(r"-([0-9a-f]{8,})\.", name)
        try:  # several ranks may do this at once: torch writes beside the file, and renames
            torch.hub.download_url_to_file(address, str(path), found and found[1], progress=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot download {address}: {error}") from error
    return path


def _reason(error: Exception) -> str:
    """The part of an error that says why; torch's own text recommends executing the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = next((re.search(r"GLOBAL \S+", line) for line in lines if "GLOBAL" in line), None)
    return named[0] if named else (lines[0][:200] if lines else type(error).__name__)


def _read(path: Path) -> Any:
    if is_safetensors(path):
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path):
        _compare_with_checksums(path)
    if is_torchscript(path):
        return _weights_of_torchscript(path)
    if _TRUSTED.get():
        print_log(f"{path} is trusted: what it holds is executed", logger="current", level=30)
        return torch.load(path, map_location="cpu", weights_only=False)
    with torch.serialization.safe_globals(_harmless_globals()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _compare_with_checksums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > 2 * path.stat().st_size + 10_000_000:  # torch compresses code only, if anything
            raise UserError(f"{path} is a compressed archive of {unpacked / 1e6:.0f} MB, which torch does not write")
        # torch would read a part that is marked as a folder as empty.
        folders = [part.filename for part in archive.infolist() if part.is_dir() or part.external_attr & 0x10]
        if (damaged := archive.testzip() or next(iter(folders), None)) is not None:
            raise UserError(f"{path} is damaged (the checksum of its part {damaged!r} differs): copy it again")


# ---- what MMEngine's checkpoints hold beside tensors
class _History(HistoryBuffer):
    """Becomes MMEngine's history of a logged value, without the functions that a file gives it."""

    def __setstate__(self, state: Any) -> None:
        log, counts = (np.asarray(state[f"_{name}_history"], dtype=float) for name in ("log", "count"))
        HistoryBuffer.__init__(self, log, counts, int(state.get("max_length", 1_000_000)))
        self.__class__ = HistoryBuffer


class _Unread:
    """Stands for a function that a file names; calling it does nothing."""

    def __init__(self, *args: Any) -> None: ...


def _harmless_globals() -> list[Any]:
    """What MMEngine's checkpoints name beside tensors: histories of the log with their methods, and numpy's numbers."""
    here = importlib.import_module(np.asarray(0).__reduce__()[0].__module__)
    kinds = {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}
    # `getattr` is how a history names its methods; the real one would open everything to a hostile file
    stand_ins = [(_History, "mmengine.logging.history_buffer.HistoryBuffer"), (_Unread, "builtins.getattr")]
    harmless: list[Any] = [np.ndarray, np.dtype, *kinds, *stand_ins]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and numpy 2 write it
        harmless += [(getattr(here, name), f"{module}.{name}") for name in ("_reconstruct", "scalar")]
    return harmless


# ---- TorchScript, whose own loader runs the archive's code
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _Object:
    """An object of the archive: what it holds, by name."""

    def __setstate__(self, state: Any) -> None:
        self.held = state if isinstance(state, dict) else {}

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in getattr(self, "held", {}).items():
            if isinstance(value, torch.Tensor):
                yield prefix + name, value
            elif isinstance(value, _Object):
                yield from value.tensors(f"{prefix}{name}.")


class _TorchScriptReader(pickle.Unpickler):
    """Reads the objects of an archive as :class:`_Object`, and its tensors; calls nothing else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":  # lists of numbers, and tags of types
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, _ = pid
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _rebuilt(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)


def _weights_of_torchscript(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        module = _TorchScriptReader(archive, root).load()
    if not isinstance(module, _Object):
        raise UserError(f"{path} is an archive of TorchScript without a module in it")
    return dict(module.tensors())
