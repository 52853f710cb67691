"""Options are compared with the constructor's annotations, and what may be right passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope

from synthcap_mm.errors import UserError
from synthcap_mm.options import Component, Count, Device, GivenTo, Model, Part, Positive, Range, check_options
from synthcap_mm.registry import MODELS

if TYPE_CHECKING:
    from nowhere import Thing


class Plain:
    def __init__(
        self,
        size: Count = 1,
        rate: Positive | None = None,
        share: Part = 0.1,
        kind: Literal["a", "b"] = "a",
        level: Annotated[float, Range("(-1, 1]")] = 0.0,
        names: Sequence[str] = (),
        pair: tuple[int, int] = (0, 0),
        sizes: list[int] | None = None,
        path: str = "",
        flag: bool = False,
        options: Mapping[str, Any] | None = None,
        thing: Thing | None = None,
        loose=None,
        late: int = None,  # noqa: RUF013 - as users write it
    ) -> None:
        self.size = size


@pytest.fixture(scope="module")
def registered():
    MODELS.register_module("OptionsPlain", module=Plain)

    @MODELS.register_module()
    class OptionsNeedy:
        def __init__(self, store, size: Count = 1, *more, **options):
            pass

    @MODELS.register_module()
    class OptionsChild(Plain):
        def __init__(self, size=0, **options):  # no annotation: anything goes, also what the parent would refuse
            super().__init__(size, **options)

    yield OptionsChild
    for name in ("OptionsPlain", "OptionsChild", "OptionsNeedy"):
        MODELS.module_dict.pop(name)


def build(**options):
    return MODELS.build({"type": "OptionsPlain", **options})


@pytest.mark.parametrize("options", [
    {"size": np.int64(3)}, {"rate": 1}, {"rate": np.float32(0.5)}, {"rate": torch.tensor(0.5)}, {"rate": None},
    {"share": 0}, {"level": 1}, {"names": ["x"]}, {"names": ("x",)}, {"pair": [1, 2]},
    {"sizes": (1, 2)}, {"path": Path("x")}, {"flag": 1}, {"flag": np.bool_(True)}, {"options": ConfigDict(a=1)},
    {"thing": object()}, {"loose": object()}, {"late": None}, {"kind": "b"},
])  # fmt: skip
def test_what_may_be_right_passes(registered, options):
    build(**options)


@pytest.mark.parametrize("options, said", [
    ({"size": 0}, r"size is an integer in \[1, 1e9\], got 0"), ({"size": 10**12}, "size"), ({"size": 1.5}, "size is an integer"),
    ({"size": True}, "size"), ({"size": "3"}, "size"), ({"size": None}, "size"), ({"rate": 0}, "rate"),
    ({"rate": float("nan")}, "rate is a number .* or None, got nan"), ({"share": 1.0}, r"share is a number in \[0, 1\)"),
    ({"kind": "c"}, "kind is 'a' or 'b', got 'c'"), ({"level": -1}, "level"), ({"names": ["a", 1]}, r"names\[1\] is a string"), ({"names": "xyz"}, "names"),
    ({"names": 3}, "names"), ({"names": {"a": 1}}, "names"), ({"sizes": "12"}, "sizes"), ({"sizes": [1, "2"]}, "sizes"), ({"path": 3}, "path"),
    ({"flag": "yes"}, "flag is True or False"), ({"options": [1]}, "options"),
])  # fmt: skip
def test_what_is_wrong_is_refused_by_component_and_option(registered, options, said):
    with pytest.raises(UserError, match=rf"^Plain\.{said}"):
        build(**options)


class Inner(TypedDict, total=False):
    beams: Count


class Outer:
    def __init__(
        self,
        plain: Annotated[dict, GivenTo(Plain)] | None = None,
        parts: Sequence[Annotated[dict, Component({"plain": Plain})]] = (),
        inner: Inner | None = None,
        model: Model | None = None,
        by_name: Mapping[str, Count | None] | None = None,
        device: Device = "cpu",
        path: str | Path = "x",
    ) -> None:
        pass


@pytest.mark.parametrize("options", [
    {"plain": {"size": 2}}, {"parts": [{"type": "plain"}]}, {"inner": {"more": 1}}, {"by_name": {"a": None}},
    {"model": {"type": "OptionsNeedy"}}, {"device": torch.device("cpu")},
])  # fmt: skip
def test_what_may_be_right_within_passes(registered, options):
    check_options("Outer", Outer.__init__, (), options)


@pytest.mark.parametrize("options, said", [
    ({"plain": {"size": 0}}, r"plain\.size is"), ({"plain": {"sise": 1}}, "plain takes no option 'sise'"),
    ({"plain": 1}, "plain is a dict"), ({"parts": [{"type": "plain"}, {"type": "nope"}]}, r"parts\[1\]\.type"),
    ({"parts": [{"type": "plain", "sizes": [1, "2"]}]}, r"parts\[0\]\.sizes\[1\]"), ({"parts": [{}]}, r"parts\[0\]"),
    ({"inner": {"beams": -1}}, r"inner\.beams"), ({"model": {"type": "nope"}}, r"model\.type"),
    ({"model": {"type": "OptionsPlain", "size": 0}}, r"model\.size"), ({"by_name": {"a": 0}}, r"by_name\.a"),
    ({"device": "x"}, "device"), ({"device": -1}, "device"), ({"path": 3}, "path"),
])  # fmt: skip
def test_what_is_wrong_within_is_refused_by_its_place(registered, options, said):
    with pytest.raises(UserError, match=rf"^Outer\.{said}"):
        check_options("Outer", Outer.__init__, (), options)


def test_an_unknown_option_is_told_with_the_near_ones(registered):
    with pytest.raises(UserError, match=r"Plain.*'sise'.*size"):
        build(sise=3)


def test_a_missing_option_is_named(registered):
    MODELS.build({"type": "OptionsNeedy", "store": "x"})
    with pytest.raises(UserError, match="OptionsNeedy needs the option store"):
        MODELS.build({"type": "OptionsNeedy", "size": 2})


def test_a_component_of_the_users_decides_what_its_parent_gets(registered):
    assert MODELS.build({"type": "OptionsChild"}).size == 0


def test_mmengines_own_build_checks_too(registered):
    with DefaultScope.overwrite_default_scope("synthcap_mm"), pytest.raises(UserError, match=r"Plain\.size"):
        ROOT.build({"type": "OptionsPlain", "size": 0})


def test_every_option_of_the_package_can_be_told_in_words():
    """A default that its own annotation refuses would be a wrong annotation."""
    import inspect

    from synthcap_mm import registry
    from synthcap_mm.options import _in_words, _resolved, fault

    for name in ("MODELS", "DATASETS", "METRICS", "HOOKS", "INFERENCERS"):
        components = getattr(registry, name)
        components.import_from_location()
        for component in components.module_dict.values():
            function = component.__init__
            for parameter in list(inspect.signature(function).parameters.values())[1:]:
                hint = _resolved(function, parameter.annotation)
                assert _in_words(hint)
                if parameter.default is not parameter.empty and component.__module__.startswith("synthcap_mm."):
                    assert fault(hint, parameter.default, parameter.name) is None, component
