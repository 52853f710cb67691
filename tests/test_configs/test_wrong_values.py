"""Every field of a config gets wrong values: each is taken, or refused by a sentence that names the field; none hangs."""

import contextlib
import copy
import functools
import re
import signal

import pytest
from mmengine.config import ConfigDict
from small_configs import ROOT, small

from synthcap_mm.cli import what_to_mend
from synthcap_mm.config_fields import Fields, check_fields
from synthcap_mm.config_reading import read_config
from synthcap_mm.engine.dry_run import dry_run
from synthcap_mm.engine.testing import prepare_evaluators
from synthcap_mm.errors import UserError
from synthcap_mm.options import fault
from synthcap_mm.registry import DATASETS, METRICS
from synthcap_mm.synthesis.curation import Curation
from synthcap_mm.synthesis.photos import PhotoStore
from synthcap_mm.synthesis.synthesis import Synthesis

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
    return re.search(rf"\b{re.escape(own)}\b", message, re.IGNORECASE) is not None


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
    except TimeoutError:
        return "hang"
    except Exception as error:
        sentence = what_to_mend(error)
        if sentence is None:
            return f"traceback: {type(error).__name__}: {error}"
        missing = isinstance(error, FileNotFoundError) and repr(value) in sentence
        return "named" if missing or names(place, sentence) else f"not named: {sentence}"
    return "taken"


def check_one(top, cfg):
    """As ``check_fields``, of one field at the top."""
    if found := fault(Fields, {top: cfg[top]}, ""):
        raise UserError(found)


def begin(cfg):
    """Build what the commands of a config build, and take a few steps of its training."""
    check_fields(cfg)
    cfg = copy.deepcopy(cfg)
    if "synthesis" in cfg:
        synthesis = Synthesis(**cfg.synthesis)
        synthesis.recipes  # noqa: B018
        synthesis.captions  # noqa: B018
    for entry in cfg.get("photo_stores") or ():
        PhotoStore(**{"encoder": cfg.synthesis.encoder, **entry}).photos.keys  # noqa: B018
    for name in ("val_evaluator", "test_evaluator"):
        if cfg.get(name):
            METRICS.build(cfg[name])
    if cfg.get("curation"):
        Curation(**{"store": cfg.synthesis.store, **cfg.curation})
    if cfg.get("test_dataloader"):
        DATASETS.build(cfg.test_dataloader.dataset)
    prepare_evaluators(cfg)
    dry_run(cfg)


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


@pytest.mark.slow
def test_what_is_not_refused_at_first_is_built_and_trained_or_refused(stores, tmp_path):
    cfg = small("ifcap/ifcap_mini.py", stores)  # synthcap_mini's fields, and more
    cfg.work_dir, cfg.config_name = str(tmp_path), "wrong"
    begin(copy.deepcopy(cfg))
    wrong = {}
    for place in places(cfg._cfg_dict):
        taken = [value for value in WRONG if outcome(check_fields, cfg, place, value) == "taken"]
        for value in taken[:: max(1, len(taken) - 1)]:  # the first and the last
            found = outcome(begin, cfg, place, value)
            if found not in ("taken", "named") and "diverged" not in found:
                wrong[place, str(value)] = found
    assert wrong == {}
