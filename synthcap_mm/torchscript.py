"""Reads the weights of a TorchScript archive without its code, which TorchScript's own loader runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from synthcap_mm.errors import UserError
from synthcap_mm.pickle_limits import check_pickle

#: Types of numbers by the names that torch's pickles have for their storages.
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is an archive of TorchScript, which has code beside weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


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
        content = io.BytesIO(archive.read(f"{root}/data.pkl"))
        check_pickle(content, lambda module, name: True)  # `find_class` decides
        content.seek(0)
        super().__init__(content)
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
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


def weights_of_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an archive by the names that its module would have in a ``state_dict``.

    Raises:
        UserError: if there is no module in it.
        pickle.UnpicklingError: if it names what no module of weights does.
    """
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        module = _TorchScriptReader(archive, root).load()
    if not isinstance(module, _Object):
        raise UserError(f"{path} is an archive of TorchScript without a module in it")
    return dict(module.tensors())
