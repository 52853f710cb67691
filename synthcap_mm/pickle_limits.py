"""What a pickle of tensors and plain values may ask of its reader, seen before it is read.

A pickle is a program: in a few bytes it can nest values a million deep, which crashes the interpreter, or share one
value so often that whoever walks through it never ends. Here its instructions are followed without making anything.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

#: Most instructions; a checkpoint of GPT-2 size has some 10 000.
MOST_INSTRUCTIONS = 1_000_000
#: Deepest nesting; of modules in modules it is some 30.
DEEPEST = 200
_ATOMS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("SHORT_BINSTRING", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "GLOBAL"),
}
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2}
_FILLED = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_FILLED_TO_MARK = {"APPENDS", "SETITEMS"}


@dataclass(eq=False, slots=True)
class _Value:
    """A value that the reader would make: how deep it nests, how many values a walk through it meets."""

    depth: int = 0
    size: int = 1
    held: bool = False
    constant: Any = None
    parts: list[_Value] | None = None
    keys: set[Any] | None = None

    def take(self, values: list[_Value]) -> None:
        for value in values:
            value.held = True
            self.depth = max(self.depth, value.depth + 1)
            self.size += value.size


def check_pickle(file: BinaryIO, may_name: Callable[[str, str], bool]) -> None:
    """Follow one pickle to its end, as the reader would.

    Args:
        file: where it begins; afterwards, where it ends.
        may_name: whether it may name what a module (first) has under a name (second).

    Raises:
        pickle.UnpicklingError: for names that it may not have.
        ValueError: for what no writer of checkpoints writes: too many, too deep or shared too often; values in
            themselves; keys other than texts and numbers; other instructions than torch writes.
        IndexError, KeyError: if it is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, _Value] = {}
    for count, (op, arg, _) in enumerate(pickletools.genops(file)):
        if count > MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS} instructions")
        if op.name == "GLOBAL":
            module, _, name = arg.partition(" ")
            if not may_name(module, name):
                raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        if op.name in ("BINPUT", "LONG_BINPUT"):
            if arg > count:
                raise ValueError("its pickle numbers its values wrongly")
            memo[arg] = _top(stack)
        elif op.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif op.name == "MARK":
            stack.append(None)
        elif op.name == "STOP":
            return
        elif op.name != "PROTO":
            _step(op.name, arg, stack)
            value = _top(stack)
            if value.depth > DEEPEST or value.size > 20 * count + 1000:
                raise ValueError("its pickle nests values too deep, or shares them too often")
    raise ValueError("its pickle has no end")


def _step(name: str, arg: Any, stack: list[Any]) -> None:
    if name in _ATOMS:
        stack.append(_Value(constant=arg))
    elif name in _TAKEN or name == "TUPLE":
        parts = _to_mark(stack) if name == "TUPLE" else [_pop(stack) for _ in range(_TAKEN[name])][::-1]
        _check_call(name, parts)
        stack.append(_Value(parts=parts if len(parts) <= 5 else None))
        stack[-1].take(parts)
    elif name in _FILLED or name in _FILLED_TO_MARK:
        parts = _to_mark(stack) if name in _FILLED_TO_MARK else [_pop(stack) for _ in range(_FILLED[name])][::-1]
        container = _top(stack)
        if container.held or container in parts:
            raise ValueError("its pickle has values in themselves")
        if name.startswith("SETITEM"):
            if any(key.depth for key in parts[::2]):
                raise ValueError("its pickle has keys other than texts and numbers")
            container.keys = container.keys or set()
            container.keys.update(key.constant for key in parts[::2])
        container.take(parts)
    else:
        raise ValueError(f"its pickle has an instruction ({name}) that torch does not write")


def _check_call(name: str, parts: list[_Value]) -> None:
    """Refuse the calls that would do something else than make a tensor, bytes or a stand-in."""
    if name == "BINPERSID" and parts[0].depth > 1:
        raise ValueError("its pickle names a storage wrongly")
    if name not in ("REDUCE", "NEWOBJ"):
        return
    called, given = parts[0].constant, parts[1].parts or []
    if called == "_codecs encode":  # other codecs may take forever
        fits = len(given) == 2 and given[1].constant == "latin1"
    elif called == "torch._tensor _rebuild_from_type_v2":  # FSDP's tensors have an attribute
        fits = len(given) == 4 and given[0].constant == "torch._utils _rebuild_tensor_v2"
        fits = fits and given[1].constant == "torch Tensor" and given[3].keys == {"_has_been_cloned"}
    else:
        fits = called != "torch Tensor"  # of any size
    if not fits:
        raise pickle.UnpicklingError(f"GLOBAL {str(called).replace(' ', '.')}")


def _top(stack: list[Any]) -> _Value:
    if stack[-1] is None:
        raise ValueError("its pickle is damaged")
    return stack[-1]


def _pop(stack: list[Any]) -> _Value:
    value = _top(stack)
    stack.pop()
    return value


def _to_mark(stack: list[Any]) -> list[_Value]:
    values = []
    while stack[-1] is not None:
        values.append(stack.pop())
    stack.pop()
    return values[::-1]
