"""Commands in a locale that has ASCII only."""

import sys

import pytest
from command_line import run_process

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOG = r"""
import locale, sys
from mmengine.logging import MMLogger
from synthcap_mm.cli.text_encoding import any_text_is_written
before = locale.setlocale(locale.LC_CTYPE), sys.stdout.errors
with any_text_is_written():
    MMLogger.get_instance("log", log_file="log.txt").info("caption: a caf\xe9, \u732b")
assert (locale.setlocale(locale.LC_CTYPE), sys.stdout.errors) == before
"""


@pytest.mark.parametrize("locale, shown", [(ASCII, r"a caf\xe9, \u732b"), ({"PYTHONUTF8": "1"}, "a café, 猫")])
def test_a_log_takes_any_caption(tmp_path, monkeypatch, locale, shown):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    said = run_process(tmp_path, sys.executable, "-c", LOG, **locale)
    assert said.rstrip("\n").endswith(f"caption: {shown}") and "Logging error" not in said
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").rstrip("\n").endswith("caption: a café, 猫")


def test_every_command_prints_any_text(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    (tmp_path / "mine.py").write_text("words = 'café'\n", encoding="utf-8")
    said = run_process(tmp_path, sys.executable, "-m", "synthcap_mm.cli", "print-config", "mine.py", **ASCII)
    assert r"caf\xe9" in said
