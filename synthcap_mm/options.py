"""Checks the options of registered components against their constructors' annotations.

A component says what it takes where it says it anyway::

    def __init__(self, dropout: Part = 0.1, order: Literal["score", "area"] = "score", heads: Count = 8): ...

Whatever builds it, MMEngine's ``Runner`` too, the values are compared with that first. Only what is certainly wrong is
refused: an annotation that is missing, cannot be resolved, or is of a class of one's own accepts anything.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from synthcap_mm.errors import UserError


class Range:
    """Marks a number's range in ``Annotated``.

    Args:
        interval: as in mathematics: ``'[0, 1)'``, ``'(0, inf)'``.
    """

    def __init__(self, interval: str) -> None:
        self.interval = interval
        self.low, self.high = (float(bound) for bound in interval[1:-1].split(","))

    def __contains__(self, value: Any) -> bool:
        above = value >= self.low if self.interval[0] == "[" else value > self.low
        return bool(above and (value <= self.high if self.interval[-1] == "]" else value < self.high))


Count = Annotated[int, Range("[1, inf)")]
Positive = Annotated[float, Range("(0, inf)")]
NotNegative = Annotated[float, Range("[0, inf)")]
Chance = Annotated[float, Range("[0, 1]")]
#: A share that may not be all: of what is dropped, of what is smoothed.
Part = Annotated[float, Range("[0, 1)")]

#: A share that may be all, and not nothing: of what is kept.
Share = Annotated[float, Range("(0, 1]")]

_UNIONS = (Union, types.UnionType)
_NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "a string", type(None): "None"}


def _holds(hint: Any, value: Any) -> bool:
    """Whether a value may be what an annotation says; in doubt it may."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        in_range = all(value in mark for mark in args[1:] if isinstance(mark, Range) and isinstance(value, Real))
        return _holds(args[0], value) and in_range
    if origin in _UNIONS:
        return any(_holds(option, value) for option in args)
    if origin is Literal:
        return value in args
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_") or (isinstance(value, int) and value in (0, 1))
    if hint in (int, float):
        return hasattr(value, "__index__" if hint is int else "__float__") and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, (str, os.PathLike))
    kind = origin or hint
    if not isinstance(kind, type) or kind.__module__ not in ("builtins", "collections.abc"):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind in (list, tuple, Sequence) and isinstance(value, Mapping if kind is Sequence else (str, bytes, Mapping)):
        return False
    if issubclass(kind, Iterable):
        each = args[:1] if kind is not tuple or args[1:] == (...,) else ()
        known = each and isinstance(value, (list, tuple, str))
        return isinstance(value, Iterable) and (not known or all(_holds(each[0], one) for one in value))
    return True


def _said(hint: Any) -> str:
    """An annotation in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = "".join(f" in {mark.interval}" for mark in args[1:] if isinstance(mark, Range))
        return f"{_said(args[0])}{ranges}"
    if origin in _UNIONS:
        return " or ".join(map(_said, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if args and isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        return f"a list of: {_said(args[0])}"
    return _NAMES.get(hint, f"a {getattr(origin or hint, '__name__', hint)}")


def _resolved(function: Any, annotation: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
    except Exception:  # a name that is imported for type checkers only, or defined inside a function
        return Any


def check_options(name: str, function: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Refuse what a function or a constructor does not take, and a call without what it needs.

    Args:
        name: whose options they are, for the message.
        function: the function, or a class's ``__init__``.
        args: positional arguments, without ``self``.
        kwargs: the others.

    Raises:
        UserError: naming the component and the option.
    """
    parameters = {n: parameter for n, parameter in inspect.signature(function).parameters.items() if n != "self"}
    kinds = {parameter.kind for parameter in parameters.values()}
    unknown = [] if inspect.Parameter.VAR_KEYWORD in kinds else [n for n in kwargs if n not in parameters]
    if unknown:
        near = difflib.get_close_matches(unknown[0], parameters, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it takes {', '.join(parameters) or 'none'}."
        raise UserError(f"{name} takes no option {unknown[0]!r}; {hint}")
    given = {**dict(zip(parameters, args)), **kwargs}
    parameters = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    missing = [n for n, parameter in parameters.items() if parameter.default is parameter.empty and n not in given]
    if missing:
        raise UserError(f"{name} needs the option {' and '.join(missing)}")
    for option, value in given.items():
        parameter = parameters.get(option)
        if parameter is None:
            continue
        hint = _resolved(function, parameter.annotation)
        if hint is parameter.empty or value is parameter.default or _holds(hint, value):
            continue
        raise UserError(f"{name}.{option} is {_said(hint)}, got {value!r}")


def check_when_built(component: type) -> type:
    """Let a class check its options whenever one of it is made (a subclass has checks of its own); a decorator."""
    original = component.__init__
    if original is object.__init__ or getattr(original, "checks", None) is component:
        return component

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is component:
            check_options(component.__name__, original, args, kwargs)
        original(self, *args, **kwargs)

    __init__.checks = component
    __init__.__signature__ = inspect.signature(original)  # for inspect.getfullargspec, which does not unwrap
    component.__init__ = __init__
    return component
