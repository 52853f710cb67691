"""A config file, its bases and ``--cfg-options``, to the config that is run.

MMEngine's text configs, with one thing more: a plain value at the top level (``store = "data/mine"``) is a
**variable**. A config that derives from the file, or ``--cfg-options store=…``, changes everything that the file made
from it; MMEngine alone would change the name only, and leave ``model.store`` and the rest as they were.
"""

from __future__ import annotations

import ast
import copy
import os
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.utils import import_modules_from_strings

from synthcap_mm.config_files import resolve_config
from synthcap_mm.config_options import check_options, parse_options
from synthcap_mm.errors import UserError
from synthcap_mm.files import temporary_folder

_PLAIN = (str, int, float, bool, types.NoneType)


def read_config(path: str | os.PathLike[str], options: Mapping[str, Any] | Sequence[str] | None = None) -> Config:
    """A config with its options; its custom modules are imported.

    Modules of ``custom_imports`` are found in the current folder and in the
    config's, besides wherever Python looks anyway.

    Args:
        path: file, or name of a shipped config.
        options: settings over the config's: values by dotted name, or texts ``'NAME=VALUE'`` as they are typed.
            Default: none.

    Raises:
        UserError: if there is no such config (with the near matches), if it cannot be evaluated, if a module of
            ``custom_imports`` is found nowhere, or if an option has no effect.
    """
    path = resolve_config(path)
    # Neither a script in tools/ nor the console command has the user's folder on the path. Last, so that a file there
    # cannot hide an installed package.
    for folder in (os.getcwd(), str(path.resolve().parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        plain = _load(path, {})
        values = dict(options or {}) if isinstance(options, Mapping) else parse_options(options or (), plain.to_dict())
        cfg = _with_options(path, plain, values)
    except UserError:
        raise
    except Exception as error:  # the config's own code, or options that do not fit it
        raise UserError(f"the config {path} cannot be read: {_described(error, path)}") from error
    _import_custom(cfg)
    check_options(values, plain.to_dict(), cfg.to_dict())  # now that their components are known
    cfg.config_name = path.stem
    return cfg


def _with_options(path: Path, plain: Config, values: Mapping[str, Any]) -> Config:
    variables = {
        name: value
        for name, value in values.items()
        if isinstance(value, _PLAIN) and name in plain and isinstance(plain[name], _PLAIN)
    }
    cfg = _load(path, variables) if variables else copy.deepcopy(plain)
    cfg.merge_from_dict(copy.deepcopy(dict(values)))
    return cfg


def _described(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{path if error.filename == '<unknown>' else error.filename}, line {error.lineno}: {error.msg}"
    places = [
        f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>" and f.filename.endswith(".py")
    ]
    place = f"{places[-1].filename}, line {places[-1].lineno}: " if places else ""
    return f"{place}{type(error).__name__}: {error.args[0] if isinstance(error, KeyError) else error}"


def _import_custom(cfg: Config) -> None:
    wanted = cfg.get("custom_imports")
    if not wanted:
        return
    try:
        import_modules_from_strings(**wanted)
    except ImportError as error:
        cause = error.__cause__ or error.__context__
        raise UserError(
            f"custom_imports: {error}{f' ({cause})' if cause else ''}; looked in the current folder, in the config's, "
            "and where Python looks anyway (PYTHONPATH)"
        ) from error


def _load(path: Path, variables: Mapping[str, Any]) -> Config:
    if path.suffix != ".py" or Config._is_lazy_import(str(path)):
        return Config.fromfile(path, import_custom_modules=False)
    environment: dict[str, str] = {}
    fields = _evaluate(path.absolute(), variables, environment)
    return Config(fields, cfg_text=path.read_text("utf-8"), filename=str(path), env_variables=environment)


def _evaluate(path: Path, variables: Mapping[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """The fields of a config file, merged into those of its bases.

    Args:
        path: the file.
        variables: values of top-level names, in place of those that the file and its bases give them.
        environment: takes the environment variables that were used.
    """
    if path.suffix != ".py":
        return Config._file2dict(str(path))[0]
    with temporary_folder() as folder:
        text = os.path.join(folder, path.name)
        Config._substitute_predefined_vars(str(path), text)
        environment.update(Config._substitute_env_variables(text, text))
        placeholders = Config._pre_substitute_base_vars(text, text)  # of "{{ _base_.name }}"
        tree = ast.parse(Path(text).read_text("utf-8"), str(path))
        bases = [Config._get_cfg_path(base, str(path)) for base in Config._get_base_files(text)]
    inherited = _inherit(bases, variables, environment)
    namespace: dict[str, Any] = {"_base_": inherited}
    exec(compile(_with_values(tree, variables), str(path), "exec"), namespace)
    fields = {
        name: value
        for name, value in namespace.items()
        if name != "_base_"
        and not name.startswith("__")
        and not isinstance(value, (types.FunctionType, types.ModuleType))
    }
    fields = Config._substitute_base_vars(fields, placeholders, inherited)
    # The file was evaluated on its bases as they are: store = _base_.store + "_large". What the bases made from a
    # variable that the file gives another value follows it.
    changed = {
        name: value
        for name, value in fields.items()
        if name in inherited and isinstance(value, _PLAIN) and isinstance(inherited[name], _PLAIN)
        and value != inherited[name]
    }  # fmt: skip
    if changed:
        inherited = _inherit(bases, {**changed, **variables}, environment)
    return Config._merge_a_into_b(fields, inherited)


def _inherit(
    bases: Sequence[tuple[str, str | None]], variables: Mapping[str, Any], environment: dict[str, str]
) -> ConfigDict:
    """The fields of all bases of a file; ``bases`` are paths with MMEngine's scope of another package."""
    fields = ConfigDict()
    for base, scope in bases:
        own = _evaluate(Path(base), variables, environment)
        twice = sorted(fields.keys() & own.keys())
        if twice:
            raise UserError(f"{base}: the field {twice[0]} is in another file of the same _base_ too")
        fields.update(Config._dict_to_config_dict(own, scope))
    return fields


def _with_values(tree: ast.Module, variables: Mapping[str, Any]) -> ast.Module:
    """The code without ``_base_ = …``, and with other values in top-level assignments ``name = …``."""
    body = []
    for line in tree.body:
        name = line.targets[0].id if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) else None
        if name == "_base_":
            continue
        if name in variables:
            line.value = ast.copy_location(ast.Constant(variables[name]), line.value)
        body.append(line)
    tree.body = body
    return tree
