"""Reads weights from files that are not trusted: their content decides the format, and nothing in them is executed.

Every loader of the package reads with :func:`read_checkpoint`, MMEngine's ``Runner`` too (``engine/loading.py``).
"""

from __future__ import annotations

import contextlib
import io
import math
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
from synthcap_mm.pickle_limits import check_pickle
from synthcap_mm.torchscript import STORAGES, is_torchscript, weights_of_torchscript

_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)
#: How torch's format before archives begins: the pickle of a number.
_OLDER_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
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
    if _TRUSTED.get():
        return content
    _check_tensors(content, path)
    meta = content.get("meta")
    if not isinstance(meta, (dict, type(None))):
        raise UserError(f"the {what} {str(path)!r} is damaged: its 'meta' is a {type(meta).__name__}, not a dict")
    if meta:
        meta.pop("config", None)
    return content


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as a safetensors file does."""
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= min(_LONGEST_HEADER, path.stat().st_size - 8)


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
    if not by_name or not all(isinstance(value, torch.Tensor) and _is_plain(value) for value in weights.values()):
        raise UserError(f"the checkpoint {where} has no weights by name (state_dict)")
    if bad := not_finite(weights):
        raise UserError(
            f"{len(bad)} weights of {where} are not finite ({listed(bad, 3)}): the training that wrote it diverged. "
            "Take an earlier checkpoint"
        )
    return dict(weights)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is numbers in memory, as many as it says; a sparse or an expanded one can say any number."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in STORAGES.values()
        and not tensor.is_nested
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _check_tensors(content: Any, path: Path) -> None:
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor) and not _is_plain(value):
            raise UserError(f"{path} has a tensor ({value.dtype}, {value.layout}) that is not plain numbers in memory")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value


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
        return weights_of_torchscript(path)
    if _TRUSTED.get():
        print_log(f"{path} is trusted: what it holds is executed", logger="current", level=30)
        return torch.load(path, map_location="cpu", weights_only=False)
    _check_pickles(path)
    with torch.serialization.safe_globals([(value, name) for name, value in _STAND_INS.items()]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_pickles(path: Path) -> None:
    """Look at what torch would unpickle: of an archive one pickle, of the older format five before the numbers."""
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # as torch sees it
        file.seek(0)
        if is_archive:
            check_pickle(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")), _may_name)
            return
        if file.read(len(_OLDER_FORMAT)) != _OLDER_FORMAT:
            raise ValueError("no format of weights that is known")
        file.seek(0)
        for _ in range(5):
            check_pickle(file, _may_name)


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
class _Kind:
    """Stands for numpy's ``dtype``: those of numbers only."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", name):
            raise ValueError(f"it has an array of another kind than numbers ({name[:20]!r})")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Stands for numpy's ``_reconstruct``: an array of numbers, as large as the bytes that are given for it."""

    def __new__(cls, *_: Any) -> _Array:
        return np.ndarray.__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, content = state
        if not (
            isinstance(kind, _Kind) and isinstance(content, bytes) and all(type(n) is int and n >= 0 for n in shape)
        ):
            raise ValueError("it has an array of another kind than numbers")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise ValueError("it has an array of another size than it says")
        super().__setstate__((1, tuple(shape), kind.dtype, bool(by_columns), content))

    def __reduce__(self) -> Any:  # saved again, it is an array
        return np.array(self, subok=False).__reduce__()


def _number(kind: _Kind, content: bytes) -> Any:
    """Stands for numpy's ``scalar``."""
    if not (isinstance(kind, _Kind) and isinstance(content, bytes) and len(content) == kind.dtype.itemsize):
        raise ValueError("it has a number of numpy's that is damaged")
    return np.frombuffer(content, kind.dtype)[0]


class _History(HistoryBuffer):
    """Becomes MMEngine's history of a logged value, without the functions that a file gives it."""

    def __setstate__(self, state: Any) -> None:
        log, counts = (state[f"_{name}_history"] for name in ("log", "count"))
        longest = state.get("max_length", 1_000_000)
        if not (isinstance(log, _Array) and isinstance(counts, _Array) and log.ndim == counts.ndim == 1):
            raise ValueError("it has a history of other values than numbers")
        if type(longest) is not int or longest < 1:
            raise ValueError("it has a history of a wrong length")
        HistoryBuffer.__init__(self, np.array(log, dtype=float), np.array(counts, dtype=float), longest)
        self.__class__ = HistoryBuffer


class _Unread:
    """Stands for a function that a file names; calling it does nothing."""

    def __init__(self, *args: Any) -> None: ...


#: What a checkpoint may name beside torch's: the name in the file, and what stands for it here.
_STAND_INS: dict[str, Any] = {
    "mmengine.logging.history_buffer.HistoryBuffer": _History,
    # `getattr` is how a history names its methods; the real one would open everything to a hostile file
    "builtins.getattr": _Unread,
    "numpy.dtype": _Kind,
    "numpy.ndarray": _Unread,
    # as numpy 1 and numpy 2 write it
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}


def _may_name(module: str, name: str) -> bool:
    """Whether a checkpoint may name this: what makes plain tensors, and what has a stand-in."""
    if module == "torch":
        return name in STORAGES or isinstance(getattr(torch, name, None), torch.dtype) or name in ("Size", "Tensor")
    return f"{module}.{name}".replace("__builtin__", "builtins") in {
        *_STAND_INS,
        "_codecs.encode",
        "collections.OrderedDict",
        "collections.Counter",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._tensor._rebuild_from_type_v2",
    }
