"""``--cfg-options KEY=VALUE``: their values, and a refusal of those that would have no effect."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints, is_typeddict

from synthcap_mm.errors import UserError, near
from synthcap_mm.options import Component, GivenTo, plain_hints

#: Top-level fields besides those of :mod:`synthcap_mm.config_fields` and of MMEngine's runners.
_OTHERS = {"custom_imports", "runner_type", "model_wrapper_cfg"}
#: Hooks that MMEngine has without being told; a config may turn them off, or give them another ``type``.
_DEFAULT_HOOKS = {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"}


def parse_options(texts: Sequence[str], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``KEY=VALUE`` texts, by key.

    Numbers, ``True``, ``False``, ``None``; lists as ``[a,b]``, ``(a,b)`` or ``a,b``; all else is text, blanks included.
    Where the config has text, a comma makes no list, so a path may have one; quotes make text of anything.

    Args:
        texts: as they are typed.
        cfg: the config that they are for.

    Raises:
        UserError: if a text has no ``=``, or brackets that do not match.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--cfg-options takes KEY=VALUE, not {text!r}")
        try:
            values[key] = _parse(value, isinstance(_find(cfg, key), str))
        except ValueError as error:
            raise UserError(f"--cfg-options {text}: {error}") from error
    return values


def _parse(text: str, as_text: bool = False) -> Any:
    text = text.strip()
    if text[:1] in ("'", '"', "{", "[", "("):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            text = text.strip("'\"")
    for opening, closing, kind in (("[", "]", list), ("(", ")", tuple)):
        if text.startswith(opening) and text.endswith(closing):
            return kind(_parse(item) for item in _split(text[1:-1]))
    if "," in text and not as_text:
        return [_parse(item) for item in _split(text)]
    words = {"True": True, "true": True, "False": False, "false": False, "None": None}
    if text in words:
        return words[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _split(text: str) -> list[str]:
    """The items between commas that are in no brackets; a comma at the end counts for nothing."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    if depth:
        raise ValueError("the brackets do not match")
    return items if items[-1].strip() else items[:-1]


def check_options(options: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing of what is run.

    A key must be in the config, or be taken by whatever the field above it is given to: the constructor of its
    ``type``, MMEngine's Runner, synthesis, curation. A variable at the top level that nothing was made from again
    (in a config that MMEngine wrote out, say) is refused with the fields that have its value.

    Args:
        options: values by dotted name.
        before: the config without them.
        after: the config with them.

    Raises:
        UserError: naming the option, and what is near it.
    """
    for key in options:
        _check_path(key, options, before, after)
    for name in {key.split(".")[0] for key in options} - _runner_fields():
        _check_variable(name, options, before, after)


def _check_path(key: str, options: Mapping[str, Any], before: Any, after: Any) -> None:
    parts = key.split(".")
    root = before
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if options.get(f"{above}._delete_"):
            before = {}
        known = _child(before, part)
        if known is _MISSING and isinstance(after, Mapping) and not _takes(above, after, part):
            raise UserError(
                f"--cfg-options {key}: {above or 'the config'} has no field {part!r}, and nothing takes it, so it "
                f"would have no effect{_hint(parts, depth, [*before, *_taken(above, after)], root)}"
            )
        before = {} if known is _MISSING else known
        after = _child(after, part)


def _check_variable(name: str, options: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse a variable if fields have its value, and none of them changed with it."""
    value = before.get(name)
    if value is None or isinstance(value, bool) or after[name] == value:
        return
    copies = [
        path
        for path, copy in _walk(before)
        if type(copy) is type(value) and copy == value and path.split(".")[0] not in (name, "config_name")
        and not any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in options)
    ]  # fmt: skip
    if copies and all(_find(after, path) == value for path in copies):
        raise UserError(
            f"--cfg-options {name}: nothing reads {name!r} itself, so it would have no effect; the fields with its "
            f"value are {', '.join(copies)}"
        )


_MISSING = object()


def _child(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part, _MISSING)
    if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return _MISSING


def _find(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = _child(cfg, part)
    return cfg


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if path:
        yield path, value
    children = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    for key, child in children:
        yield from _walk(child, f"{path}.{key}" if path else str(key))


def _hint(parts: Sequence[str], depth: int, siblings: Sequence[str], cfg: Mapping[str, Any]) -> str:
    """Fields like the one at ``parts[depth]``, beside it or elsewhere in the config."""
    elsewhere = [path for path, _ in _walk(cfg) if path.endswith("." + ".".join(parts))]
    beside = near(parts[depth], dict.fromkeys(siblings), 3)
    meant = elsewhere[:3] or [".".join([*parts[:depth], name]) for name in beside]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def _takes(above: str, node: Mapping[str, Any], field: str) -> bool:
    """Whether something takes a field of ``node``, which lies at ``above`` in the config."""
    if field in ("type", "_delete_", "_scope_"):
        return True
    taken = _taken(above, node)
    others = [value for name, value in node.items() if name != field and value is not None]
    if above and others and all(map(_is_component, others)):  # components by name: hooks, necks
        return field in taken or _is_component(node[field])
    return field in taken or "**" in taken


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "type" in value


def _taken(above: str, node: Mapping[str, Any]) -> set[str]:
    """The fields that ``node`` at ``above`` may have; ``'**'``: any."""
    if not above:
        return _runner_fields()
    if above == "default_hooks":
        return _DEFAULT_HOOKS
    hints = _hints_at(above.split("."))
    taken = {name for hint in hints if is_typeddict(hint) for name in hint.__annotations__}
    takers = [hint.taker for hint in hints if isinstance(hint, GivenTo)]
    takers += [_component(hint.default) for hint in hints if isinstance(hint, Component) and hint.default]
    if "type" in node:
        takers = [_component(node["type"])]
    if None in takers or not (takers or taken):  # an unknown type, as building it will say; or a component's own dict
        return {"**"}
    parameters = [p for taker in takers for p in inspect.signature(taker).parameters.values()]
    return taken | {"**" if p.kind is p.VAR_KEYWORD else p.name for p in parameters}


def _hints_at(place: Sequence[str]) -> list[Any]:
    """What :mod:`synthcap_mm.config_fields` says of a place in a config."""
    from synthcap_mm.config_fields import Fields

    hints: list[Any] = [Fields]
    for part in place:
        hints = [inner for hint in hints for inner in plain_hints(_inside(hint, part))]
    return hints


def _inside(hint: Any, part: str) -> Any:
    if is_typeddict(hint):
        return get_type_hints(hint, include_extras=True).get(part, Any)
    return get_args(hint)[-1] if get_args(hint) else Any


def _runner_fields() -> set[str]:
    from mmengine.runner import FlexibleRunner, Runner

    from synthcap_mm.config_fields import Fields

    takers = (*inspect.signature(Runner).parameters, *inspect.signature(FlexibleRunner).parameters)
    return {*takers, *Fields.__annotations__, *_OTHERS}


def _component(name: Any) -> Any:
    """The class of a ``type``, whichever registry has it; ``None``: none has, which building it will say."""
    from mmengine.registry import Registry

    from synthcap_mm import registry as registries

    if not isinstance(name, str):
        return name
    for registry in vars(registries).values():
        if isinstance(registry, Registry):
            try:
                found = registry.get(name)
            except KeyError:
                continue
            if found is not None:
                return found
    return None
