"""How far work is."""

import pytest

from synthcap_mm import progress
from synthcap_mm.progress import Progress, duration


@pytest.mark.parametrize(
    "seconds, told", [(0, "0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (3600, "1 h 00 min"), (123456, "34 h 17 min")]
)
def test_durations(seconds, told):
    assert duration(seconds) == told


def test_alone(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "print_log", lambda message, **kwargs: said.append(message))
    monkeypatch.setattr(progress, "_LINE", 0.0)
    with Progress("images", 10, 4, "images") as bar:
        bar.update(2)
        bar.update(4)
        assert bar.made == 6
    assert said[0].startswith("images: 6 of 10, ") and "time left" in said[0]
    assert said[-1].startswith("images: 6 made, 4 reused, of 10, in")


def test_of_several_workers_one_tells_what_all_made(monkeypatch):
    said, done, updates = [], [4], []
    monkeypatch.setattr(progress, "print_log", lambda message, **kwargs: said.append(message))
    monkeypatch.setattr(progress, "_LINE", 0.0)
    with Progress("images", 20, 4, "images", True, lambda: done[0], lambda: updates.append(1)) as bar:
        done[0] = 13  # others finished shards
        bar.update(3)
        bar.update(-3)
    assert said[0].startswith("images: 13 of 20") and len(updates) == 2
    said.clear()
    with Progress("images", 20, 4, "images", shown=False) as bar:
        bar.update(3)
    assert not said
