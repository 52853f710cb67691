"""Commands, flags and paths that the pages name are there."""

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest

from synthcap_mm.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "research" / "README.md", *(ROOT / "configs").rglob("*.md")]  # fmt: skip
TYPED = re.compile(r"(?:(?:python|bash) ((?:tools|benchmarks|demo)/\S+?\.(?:py|sh))|(synthcap-mm) )([^`\n#]*)")


@functools.cache
def help_of(name):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([name, "--help"]) == 0
    return said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_typed_commands_exist_and_take_their_flags(page):
    for script, _, rest in TYPED.findall(page.read_text(encoding="utf-8")):
        if script:
            assert (ROOT / script).is_file(), script
            name = re.sub(r"^(dist|slurm)_", "", Path(script).stem).replace("_", "-")
        else:
            name = rest.split()[0].strip(",…") if rest.strip() else ""
            if name.isupper() or name.startswith("-"):  # COMMAND, --help
                continue
            assert name in COMMANDS, name
        takes = help_of(name) if name in COMMANDS else (ROOT / script).read_text()
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", rest):
            assert re.search(rf"{flag}(?![\w-])", takes), f"{name} {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    named = re.findall(r"`((?:synthcap_mm|configs|tools|tests|benchmarks|research)/[\w./-]+)`", page.read_text(encoding="utf-8"))  # fmt: skip
    assert [name for name in named if not (ROOT / name).exists()] == []


FLAGS = ["--cfg-options", "--launcher", "--work-dir", "--resume", "--amp", "--no-validate", "--auto-scale-lr"]


def test_the_readme_says_which_command_takes_which_flag():
    rows = re.findall(r"^\| `(--[^`]*)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert sorted(f for row in rows for f in row[0].split()) == sorted(FLAGS)
    columns = (["train"], ["test"], ["synthesize", "encode-images", "curate"], ["inspect-pairs"])
    for column, names in enumerate(columns, 1):
        for name in names:
            said = help_of(name)
            for row in rows:
                for flag in row[0].split():
                    assert (f"{flag} " in said or f"{flag}]" in said) == row[column].startswith("yes"), (name, flag)


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    for name in set(COMMANDS) - {"print-config"}:
        assert f"tools/{name.replace('-', '_')}.py" in text or f"synthcap-mm {name}" in text, name
