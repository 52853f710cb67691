"""How far long work is."""

import pytest

from synthcap_mm import progress
from synthcap_mm.progress import Progress, duration, megabytes


@pytest.mark.parametrize(
    "seconds, said", [(0, "0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (3600, "1 h 00 min"), (123456, "34 h 17 min")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_sizes():
    assert (megabytes(3_140_000), megabytes(1_250_000_000)) == ("3.1 MB", "1.25 GB")


@pytest.fixture()
def lines(monkeypatch):
    """What is logged; a line at every count."""
    said = []
    monkeypatch.setattr(progress, "print_log", lambda message, **kwargs: said.append(message))
    monkeypatch.setattr(progress, "_LINE", 0.0)
    return said


def test_lines_where_there_is_no_terminal(lines):
    with Progress("images", 10, 4, "images") as bar:
        bar.update(2)
        bar.update(4)
        assert bar.made == 6
    assert lines[0].startswith("images: 6 of 10") and lines[-1].startswith("images: 6 made, 4 reused, of 10")


def test_what_others_make_counts_and_one_that_is_not_shown_is_silent(lines):
    counted = []
    with Progress("images", 20, 0, "images", done=lambda: 10, on_update=lambda: counted.append(1)) as bar:
        bar.update(3)
    assert lines[0].startswith("images: 10 of 20") and counted == [1]
    lines.clear()
    with Progress("images", 20, 0, "images", shown=False) as bar:
        bar.update(20)
    assert lines == []
