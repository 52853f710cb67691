"""Checks the options of components against their constructors' annotations.

A component says what it takes where it says it anyway::

    def __init__(self, dropout: Part = 0.1, prompt: Annotated[dict, GivenTo(TagPrompt)] | None = None, ...): ...

Whatever builds it, MMEngine's ``Runner`` too, the values are compared with that first, and what is in dicts and lists
as well; the message names the place, ``GPT2CaptionHead.generation.num_beams``. Only what is certainly wrong is refused:
an annotation that is missing or cannot be resolved accepts anything, and so does one of a class, of any object.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch

from synthcap_mm.errors import UserError, near


class That:
    """Marks, in ``Annotated``, what a function approves of.

    Args:
        words: what that is, for the message.
        test: gets the value.
    """

    def __init__(self, words: str, test: Callable[[Any], bool]) -> None:
        self.words, self.test = words, test

    def __str__(self) -> str:
        return self.words

    def fault(self, value: Any, place: str) -> str | None:
        """What is wrong with a value of the right type, as a sentence that begins with its place; ``None``: nothing."""
        return None if self.test(value) else _refusal(Annotated[Any, self], value, place)


class Range(That):
    """Marks a number's range.

    Args:
        interval: as in mathematics: ``'[0, 1)'``, ``'(0, inf)'``.
    """

    def __init__(self, interval: str) -> None:
        super().__init__(f"in {interval}", lambda value: not isinstance(value, Real) or value in self)
        self.interval = interval
        self.low, self.high = (float(bound) for bound in interval[1:-1].split(","))

    def __contains__(self, value: Any) -> bool:
        above = value >= self.low if self.interval[0] == "[" else value > self.low
        return bool(above and (value <= self.high if self.interval[-1] == "]" else value < self.high))


class GivenTo:
    """Marks a dict whose items are the arguments of a class or function.

    Args:
        taker: the class or function.
        *filled_in: arguments that somebody else adds.
    """

    def __init__(self, taker: Callable, *filled_in: str) -> None:
        self.taker, self.filled_in = taker, filled_in

    def __str__(self) -> str:
        return f"of the options of {self.taker.__name__}"

    def fault(self, value: Any, place: str) -> str | None:
        """See :meth:`That.fault`."""
        function = self.taker.__init__ if inspect.isclass(self.taker) else self.taker
        return _caught(check_options, place, function, (), {**dict.fromkeys(self.filled_in, _FILLED_IN), **value})


class Component:
    """Marks a dict that a registry builds a component of.

    Args:
        kinds: name of the registry in :mod:`synthcap_mm.registry`, or a dict of the classes by name.
        default: what is built where the dict has no ``type``. Default ``None``: it must have one.
        key: what ``type`` is called. Default ``'type'``.
    """

    def __init__(self, kinds: str | Mapping[str, Any], default: str | None = None, key: str = "type") -> None:
        self.kinds, self.default, self.key = kinds, default, key

    def __str__(self) -> str:
        return f"with a {self.key!r}" + ("" if isinstance(self.kinds, str) else f" of {', '.join(self.kinds)}")

    def fault(self, value: Any, place: str) -> str | None:
        """See :meth:`That.fault`. What it lacks is not looked at: who builds it may fill it in."""
        kind = value.get(self.key, self.default)
        if not isinstance(kind, str):
            return None if inspect.isclass(kind) else _refusal(Annotated[dict, self], value, place)
        if "_scope_" in value:
            return None
        found, unknown = _component(self.kinds, kind)
        if found is None:
            return f"{place}.{self.key}: {unknown}"
        options = {name: option for name, option in value.items() if name not in (self.key, "_delete_")}
        function = found.__init__ if inspect.isclass(found) else found
        of_others = isinstance(self.kinds, str) and not hasattr(function, "checks")
        misnamed = None if of_others else _caught(_check_names, place, function, options)
        return misnamed or _caught(_check_values, place, function, options, of_others)


def _component(kinds: str | Mapping[str, Any], name: str) -> tuple[Any, str]:
    """The class of a name, and what to say if there is none."""
    if not isinstance(kinds, str):
        return kinds.get(name), f"{name!r} is none of {', '.join(kinds)}"
    from synthcap_mm import registry as registries

    registry = getattr(registries, kinds)
    found = registry.get(name)
    return found, "" if found is not None else registry.unknown(name)


def _is_device(value: Any) -> bool:
    try:
        return bool(torch.device(value))
    except (RuntimeError, TypeError):
        return False


#: How many of something: more than fits any machine is refused.
Count = Annotated[int, Range("[1, 1e9]")]
CountOrZero = Annotated[int, Range("[0, 1e9]")]
#: Width, length or depth of a network, which is held in memory.
Size = Annotated[int, Range("[1, 65536]")]
Seed = Annotated[int, Range("[0, 9.2e18)")]
Positive = Annotated[float, Range("(0, inf)")]
NotNegative = Annotated[float, Range("[0, inf)")]
Chance = Annotated[float, Range("[0, 1]")]
#: A share that may not be all: of what is dropped, of what is smoothed.
Part = Annotated[float, Range("[0, 1)")]

#: A share that may be all, and not nothing: of what is kept.
Share = Annotated[float, Range("(0, 1]")]
Device = Annotated[Any, That("a torch device", _is_device)]
#: A path or a name, which is never empty.
Name = Annotated[str, That("a name that is not empty", lambda value: bool(str(value)))]
Model = Annotated[dict, Component("MODELS")]
Data = Annotated[dict, Component("DATASETS")]


def is_encoder_name(value: Any) -> bool:
    """Whether an encoder beside a store's own may have this name, which is part of its tables' names."""
    return re.fullmatch("[A-Za-z0-9_]+", str(value)) is not None


EncoderName = Annotated[str, That("a name of letters, digits and _", is_encoder_name)]
#: Encoders beside a store's own, by name.
OtherEncoders = Annotated[
    Mapping[str, Model],
    That("a dict of encoders by names of letters, digits and _", lambda value: all(map(is_encoder_name, value))),
]

_FILLED_IN = object()
_UNIONS = (Union, types.UnionType)
_PLAIN = (bool, int, float, str, list, tuple, Mapping, type(None))
_NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "a string", type(None): "None"}


def _caught(check: Callable, *args: Any) -> str | None:
    try:
        check(*args)
    except UserError as error:
        return str(error)
    return None


def fault(hint: Any, value: Any, place: str) -> str | None:
    """What is wrong with a value.

    Args:
        hint: an annotation.
        value: what is given for it.
        place: of the value, in a config or among a component's options.

    Returns:
        A sentence that begins with the place, or one within it; ``None``: nothing, or not certainly.
    """
    if value is _FILLED_IN:
        return None
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks = [mark for mark in args[1:] if hasattr(mark, "fault")]
        found = fault(args[0], value, place) or next(filter(None, (mark.fault(value, place) for mark in marks)), None)
        return _refusal(hint, value, place) if found and found.startswith(f"{place} is ") else found
    if origin in _UNIONS:
        faults = [fault(option, value, place) for option in args]
        inner = [found for found in faults if found and not found.startswith(f"{place} is ")]
        return None if None in faults else inner[0] if inner else _refusal(hint, value, place)
    if is_typeddict(hint):
        hints = _hints(hint)
        inner = ((hints[n], item, f"{place}.{n}".lstrip(".")) for n, item in _items(value) if n in hints)
        found = None if isinstance(value, Mapping) else _refusal(hint, value, place)
        return found or next(filter(None, (fault(*each) for each in inner)), None)
    if not _is_kind(hint, value):
        return _refusal(hint, value, place)
    each = _each(origin or hint, args, value)
    return next(filter(None, (fault(inner, item, place + suffix) for inner, item, suffix in each)), None)


def plain_hints(hint: Any) -> Iterator[Any]:
    """The alternatives of an annotation, and the marks of each."""
    if get_origin(hint) in (Annotated, *_UNIONS):
        for one in get_args(hint):
            yield from plain_hints(one)
    else:
        yield hint


@functools.cache
def _hints(fields: Any) -> dict[str, Any]:
    return get_type_hints(fields, include_extras=True)


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()


def _each(kind: Any, args: tuple, value: Any) -> list[tuple[Any, Any, str]]:
    """The items of a list or dict: each one's annotation, itself, and where it is."""
    if not args or not isinstance(kind, type):
        return []
    if issubclass(kind, Mapping):
        return [(args[1], item, f".{name}") for name, item in _items(value)]
    if not issubclass(kind, Iterable) or not isinstance(value, (list, tuple)):
        return []
    hints = args if kind is tuple and args[1:] != (...,) else args[:1] * len(value)
    return [(hint, item, f"[{n}]") for n, (hint, item) in enumerate(zip(hints, value))]


def _is_kind(hint: Any, value: Any) -> bool:
    """Whether a value is of a plain type, whatever is in it."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return type(value).__name__ in ("bool", "bool_") or (isinstance(value, int) and value in (0, 1))
    if hint in (int, float):
        number = hasattr(value, "__index__" if hint is int else "__float__") and not isinstance(value, bool)
        return number and not (isinstance(value, float) and math.isnan(value))
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if kind is str or issubclass(kind, os.PathLike):
        return isinstance(value, (str, os.PathLike))
    if kind.__module__ not in ("builtins", "collections.abc"):
        return isinstance(value, kind) or not isinstance(value, _PLAIN)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind in (list, tuple, Sequence):
        wrong = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
        pair = kind is tuple and args and ... not in args
        return not wrong and not (pair and isinstance(value, (list, tuple)) and len(value) != len(args))
    return not issubclass(kind, Iterable) or isinstance(value, Iterable)


def _refusal(hint: Any, value: Any, place: str) -> str:
    text = repr(value)
    return f"{place} is {_in_words(hint)}, got {text if len(text) <= 200 else f'{text[:200]}…'}"


def _in_words(hint: Any) -> str:
    """An annotation in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks = " ".join(str(mark) for mark in args[1:] if hasattr(mark, "fault"))
        alone = args[0] is Any or marks.startswith("a ")
        return marks if alone else f"{_in_words(args[0])} {marks}".strip()
    if origin in _UNIONS:
        return " or ".join(map(_in_words, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if is_typeddict(hint):
        return f"a dict of {', '.join(hint.__annotations__)}"
    if origin is tuple and ... not in args:
        return f"{len(args)} of: {_in_words(args[0])}"
    if args and isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        return f"a list of: {_in_words(args[0])}"
    return _NAMES.get(hint, f"a {getattr(origin or hint, '__name__', hint)}")


@functools.lru_cache(4096)
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
    parameters = {n: parameter for n, parameter in _parameters(function).items() if n != "self"}
    _check_names(name, function, kwargs)
    given = {**dict(zip(parameters, args)), **kwargs}
    parameters = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    missing = [n for n, parameter in parameters.items() if parameter.default is parameter.empty and n not in given]
    if missing:
        raise UserError(f"{name} needs the option {' and '.join(missing)}")
    _check_values(name, function, given)


def _check_names(name: str, function: Any, given: Iterable[str]) -> None:
    parameters = [n for n in _parameters(function) if n != "self"]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in _parameters(function).values())
    unknown = [] if takes_any else [n for n in given if n not in parameters]
    if unknown:
        meant = " or ".join(near(unknown[0], parameters, 3))
        hint = f"did you mean {meant}?" if meant else f"it takes {', '.join(parameters) or 'none'}."
        raise UserError(f"{name} takes no option {unknown[0]!r}; {hint}")


@functools.cache
def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _check_values(name: str, function: Any, given: Mapping[str, Any], simple_only: bool = False) -> None:
    # What other packages say of lists, dicts and classes is not always true.
    parameters = _parameters(function)
    for option, value in given.items():
        parameter = parameters.get(option)
        if parameter is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = _resolved(function, parameter.annotation)
        if hint is parameter.empty or value is parameter.default or (simple_only and not _is_simple(hint)):
            continue
        if found := fault(hint, value, f"{name}.{option}"):
            raise UserError(found)


def _is_simple(hint: Any) -> bool:
    return all(map(_is_simple, get_args(hint))) if get_origin(hint) in _UNIONS else hint in (*_NAMES, None)


def check_when_built(component: type) -> type:
    """Let a class check its options whenever one of it is made (a subclass has checks of its own); a decorator."""
    original = component.__init__
    # What other packages say of their options is not always true.
    inherited = original is object.__init__ or str(original.__module__).partition(".")[0] in ("mmengine", "torch")
    if inherited or getattr(original, "checks", None) is component:
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
