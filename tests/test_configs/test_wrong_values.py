"""Every field of a config gets wrong values: each is taken, or refused by a sentence that names the field; none hangs."""

import contextlib
import copy
import functools
import re
import signal

import pytest
from mmengine.config import ConfigDict
from small_configs import ROOT

from synthcap_mm.config_fields import Fields, check_fields
from synthcap_mm.config_reading import read_config
from synthcap_mm.errors import UserError
from synthcap_mm.options import fault

CONFIGS = ("synthcap_mini.py", "synthcap_custom.py", "decap/decap_mini.py", "ifcap/ifcap_mini.py",
           "synthcap/synthcap_plus_mini.py")  # fmt: skip
WRONG = (None, -1, 0, 1e30, float("nan"), "x", "", [], {}, {"type": "nope"}, True, 10**12)
#: Seconds after which something hangs; what is tried takes one or two.
HANG = 20


def places(node, place=()):
    """Every field of a config that something reads: keys, and indices of lists."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        if place or key in Fields.__annotations__:
            yield (*place, key)
            yield from places(child, (*place, key))


@contextlib.contextmanager
def changed(cfg, place, value):
    """While in the context, the config has another value at a place."""
    node = functools.reduce(lambda node, key: node[key], place[:-1], cfg._cfg_dict)
    before = node[place[-1]]
    node[place[-1]] = ConfigDict(value) if isinstance(value, dict) else copy.copy(value)
    try:
        yield cfg
    finally:
        node[place[-1]] = before


def names(place, message):
    """Whether a message names a field: by its own name, or of one in a list, by the list's."""
    own = next(key for key in reversed(place) if isinstance(key, str))
    return re.search(rf"\b{re.escape(own)}\b", message) is not None


@contextlib.contextmanager
def no_hang():
    """By the processor's time, so that a busy machine is no hang."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(run, cfg, place, value):
    """``'taken'``, ``'named'``, or what went wrong."""
    try:
        with no_hang(), changed(cfg, place, value):
            run(cfg)
    except UserError as error:
        return "named" if names(place, str(error)) else f"not named: {error}"
    except TimeoutError:
        return "hang"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "taken"


def check_one(top, cfg):
    """As ``check_fields``, of one field at the top."""
    if found := fault(Fields, {top: cfg[top]}, ""):
        raise UserError(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_value_of_any_field_is_refused_by_its_name(name):
    cfg = read_config(ROOT / "configs" / name)
    check_fields(cfg)
    outcomes = {
        (place, str(value)): outcome(functools.partial(check_one, place[0]), cfg, place, value)
        for place in places(cfg._cfg_dict)
        for value in WRONG
    }
    assert {case: found for case, found in outcomes.items() if found not in ("taken", "named")} == {}
    assert sum(found == "named" for found in outcomes.values()) > 0.8 * len(outcomes)
