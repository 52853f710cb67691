"""Damaged and hostile inputs: nothing is executed, nothing outside is touched, nothing is taken though it is damaged."""

import pytest

from .kinds import KINDS
from .running import FAULTS, run


def faults(name, folder, count):
    """The faults of some cases, a sentence each."""
    said = []
    tally = run(KINDS[name](folder / name), count, seed=0, say=said.append)
    assert tally.count.total() == count and any(tally.count[fine] for fine in ("refused", "unnamed"))
    assert len(said) == sum(tally.count[fault] for fault in FAULTS)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_300_inputs_of_each_kind(name, tmp_path):
    found = faults(name, tmp_path.resolve(), 300)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["captions", "predictions", "images", "http"])
def test_a_few_inputs_of_the_kinds_that_are_made_quickly(name, tmp_path):
    found = faults(name, tmp_path.resolve(), 15)
    assert not found, "\n".join(found)
