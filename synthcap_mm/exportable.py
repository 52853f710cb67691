"""Which options may stand in an exported captioner's config: each component lists its own, and others are refused.

The same list says how an option is written into the folder, and how it is read again.

A component lists the options that an export may give it, in ``exportable``::

    exportable = {**data("width", "layers"), "checkpoint": SafetensorsFile(), "encoder": Child()}

A value is data, a component with such a list, a file of the folder (checked by its content), or a name in a list that
the user trusts already, such as mmdet's configs. Paths, addresses and names of hubs are refused, so no loader gets one.
"""

from __future__ import annotations

import gzip
import inspect
import math
import os
import reprlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from synthcap_mm.errors import UserError
from synthcap_mm.files import decode, read_json, write_json
from synthcap_mm.weights_files import is_safetensors

#: Key of a file of the folder: ``{"$file": "encoder/weights.safetensors"}``.
FILE = "$file"
#: Most characters of a text, items of a list and bytes of an unpacked vocabulary.
_LONGEST_TEXT, _LONGEST_LIST, _LARGEST_TEXT_FILE = 2_000, 100_000, 64_000_000


class Folder(Protocol):
    """The export whose config is read."""

    def file(self, name: Any, where: str) -> Path:
        """The path of a file that the export lists."""


class NewFolder:
    """An export that is being written.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> Path:
        """Where a file belongs."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        return self.path / name

    def copy(self, source: str, name: str) -> dict[str, str]:
        """Copy a file into the folder; returns what stands for it in the export's config."""
        shutil.copyfile(source, self.place(name))
        return {FILE: name}


class Field:
    """An option of a component in an export."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """The value as it stands in the export's config, with the files that it names in the folder.

        Args:
            value: as the component takes it.
            name: component and option, ``'encoder/checkpoint'``; also of files, without their suffix.
            folder: the export.

        Raises:
            UserError: if it cannot stand there.
        """
        return value

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """The value as the component takes it.

        Args:
            value: as it stands in the export's config.
            where: file and field, for messages.
            folder: the export.

        Raises:
            UserError: if it may not stand there.
        """
        raise NotImplementedError


class Data(Field):
    """Numbers, short texts, booleans, ``None``, and lists of those. The constructor's annotation says which."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        if isinstance(value, str) and (os.sep in value or "." in value) and os.path.exists(value):
            raise UserError(f"{_dotted(name)} names {value}, a file or folder on this machine")
        return value

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        return _plain(value, where)


class Texts(Field):
    """A list of texts. Of a file, which a config may name instead, the lines that are not empty."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        if not isinstance(value, str):
            return value
        lines = decode(Path(value), Path(value).read_bytes()).splitlines()
        return [line.strip() for line in lines if line.strip()]

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise refused(where, value, "a list of texts")
        return _plain(value, where)


class Options(Field):
    """An object of data.

    Args:
        names: of its options; or the class or function whose parameters they are.
    """

    def __init__(self, names: Iterable[str] | Callable) -> None:
        self.names = set(inspect.signature(names).parameters if callable(names) else names)

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refused(where, value, "an object")
        if unknown := sorted({*value} - self.names):
            raise refused(f"{where}.{unknown[0]}", value[unknown[0]])
        return {name: _plain(one, f"{where}.{name}") for name, one in value.items()}


class OneOf(Field):
    """A name out of a list.

    Args:
        names: makes the list when it is needed: name → what the component gets for it.
    """

    def __init__(self, names: Callable[[], Mapping[str, Any]]) -> None:
        self.names = names

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        known = self.names() if isinstance(value, str) else {}
        if not isinstance(value, str) or value not in known:
            raise refused(where, value, "a name that is known here")
        return known[value]


class SafetensorsFile(Field):
    """A file of the folder that holds tensors, as its content says."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        if not isinstance(value, str) or not Path(value).is_file() or not is_safetensors(value):
            raise UserError(f"{_dotted(name)} is {value!r}, which is no safetensors file")
        return folder.copy(value, f"{name}.safetensors")

    def read(self, value: Any, where: str, folder: Folder) -> str:
        """See :meth:`Field.read`."""
        path = _path(value, where, folder)
        if path.suffix != ".safetensors" or not is_safetensors(path):
            raise UserError(f"{where}: {path} is not a safetensors file")
        return str(path)


class JsonFile(Field):
    """A file of the folder with a JSON value, which the component gets.

    Args:
        check: called with the value and ``where``; raises UserError for one that may not stand there.
    """

    def __init__(self, check: Callable[[Any, str], None]) -> None:
        self.check = check

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        write_json(folder.place(f"{name}.json"), read_json(Path(value)) if isinstance(value, str) else value)
        return {FILE: f"{name}.json"}

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        path = _path(value, where, folder)
        content = read_json(path)
        self.check(content, str(path))
        return content


class PackedText(Field):
    """A file of the folder with a packed text (``.txt.gz``)."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        return folder.copy(value, f"{name}.txt.gz")

    def read(self, value: Any, where: str, folder: Folder) -> str:
        """See :meth:`Field.read`."""
        path = _path(value, where, folder)
        try:
            with gzip.open(path) as file:
                text = file.read(_LARGEST_TEXT_FILE + 1)
            text.decode()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{where}: {path} is not a packed text file: {error}") from error
        if path.suffix != ".gz" or len(text) > _LARGEST_TEXT_FILE:
            raise UserError(f"{where}: {path} is no .gz of at most {_LARGEST_TEXT_FILE // 10**6} MB")
        return str(path)


class Child(Field):
    """A component, with its own ``exportable``."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        return write_component(value, name, folder)

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        return read_component(value, where, folder)


class Parts(Field):
    """An object of components by name."""

    def write(self, value: Any, name: str, folder: NewFolder) -> Any:
        """See :meth:`Field.write`."""
        return {part: write_component(one, f"{name}/{part}", folder) for part, one in value.items()}

    def read(self, value: Any, where: str, folder: Folder) -> Any:
        """See :meth:`Field.read`."""
        if not isinstance(value, dict) or len(value) > 100:
            raise refused(where, value, "an object of components")
        return {name: read_component(one, f"{where}.{name}", folder) for name, one in value.items()}


def data(*names: str) -> dict[str, Field]:
    """Options that are data."""
    return dict.fromkeys(names, Data())


def write_component(settings: dict[str, Any], name: str, folder: NewFolder) -> dict[str, Any]:
    """A component's settings as they stand in an export, with the files that they name in the folder.

    Args:
        settings: of the config, as plain values.
        name: of the component in the export, ``'encoder'``; also of the folder of its files.
        folder: the export.

    Raises:
        UserError: if the component does not say what may stand in an export, or has an option that may not.
    """
    from synthcap_mm.registry import MODELS

    MODELS.import_from_location()
    fields = getattr(MODELS.module_dict.get(settings["type"]), "exportable", None)
    if fields is None:
        raise UserError(
            f"{settings['type']} does not say which of its options may stand in an export (`exportable`, "
            "docs/extending.md)"
        )
    export = {"type": settings["type"]}
    for option, value in settings.items():
        if option == "type" or (value is None and not isinstance(fields.get(option), Data)):
            continue
        if option not in fields:
            raise UserError(f"{name}.{option} is not in the `exportable` of {settings['type']}")
        export[option] = fields[option].write(value, f"{name}/{option}", folder)
    return export


def read_component(settings: Any, where: str, folder: Folder) -> dict[str, Any]:
    """A component's settings as it is built from them.

    What a component wants to check of all its options together it does in a class method ``from_export(settings,
    where)``, which returns the settings.

    Args:
        settings: as they stand in an export's config.
        where: file and field, for messages.
        folder: the export.

    Raises:
        UserError: if something may not stand there; it is named.
    """
    from synthcap_mm.registry import MODELS

    if not isinstance(settings, dict):
        raise refused(where, settings, "a component")
    MODELS.import_from_location()
    kind = settings.get("type")
    component = MODELS.module_dict.get(kind) if isinstance(kind, str) else None
    fields = getattr(component, "exportable", None)
    if fields is None:
        raise UserError(
            f"{where}: {kind!r} is not one of synthcap_mm's components that may stand in an export. If it is your own, "
            "let it say so (`exportable`, docs/extending.md), and import its module first: --import MODULE"
        )
    read = {"type": kind}
    for name, value in settings.items():
        if name == "type":
            continue
        if name not in fields:
            raise refused(f"{where}.{name}", value)
        read[name] = fields[name].read(value, f"{where}.{name}", folder)
    return component.from_export(read, where) if hasattr(component, "from_export") else read


def refused(where: str, value: Any, wanted: str | None = None) -> UserError:
    """The error for what may not stand in an export.

    Args:
        where: file and field.
        value: what stands there.
        wanted: what may. Default: nothing, the field has no place there.
    """
    shown = reprlib.repr(value)  # short, and not deep
    if wanted is None:
        return UserError(f"{where} has no place in an export, which is data; it is {shown}")
    return UserError(f"{where} is {wanted} in an export, got {shown}")


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether a JSON value is a finite number within bounds."""
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    if isinstance(value, list) and len(value) <= _LONGEST_LIST and depth < 3:
        return [_plain(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and abs(value) < 2**53:
        return value
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
        return value
    raise refused(where, value, "a number, a short text or a list of them")


def _path(value: Any, where: str, folder: Folder) -> Path:
    if not isinstance(value, dict) or {*value} != {FILE}:
        raise refused(where, value, f"a file of the folder ({{{FILE!r}: NAME}})")
    return folder.file(value[FILE], where)
