"""The commands of docs/reproduce.md and docs/large_decoders.md, run without data; their configs, scores and hours.

A command that the tools do not take would end otherwise than by asking for what is missing.
"""

import re
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from synthcap_mm import missing_inputs
from synthcap_mm.cli import main
from synthcap_mm.config_files import resolve_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = [
    line
    for page in (PAGE, (ROOT / "docs" / "large_decoders.md").read_text())
    for block in re.findall(r"```bash\n(.*?)```", page, re.S)
    for line in block.splitlines()
]
TOOLS = [c for c in COMMANDS if re.match(r"(bash|python) tools/", c) and "prepare_data" not in c]


def arguments(command):
    """Tool and its arguments, as the shell scripts hand them on; without the number of GPUs."""
    words = shlex.split(command)[1:]
    script = Path(words[0]).name
    if script.startswith("dist_"):
        assert (ROOT / "tools" / script).is_file()
        place = 3 if script == "dist_test.sh" else 2
        assert words.pop(place) == "8"
    return f"{script.removeprefix('dist_').removesuffix('.sh').removesuffix('.py')}.py", words[1:]


def one_of_each():
    """Each command once; all but the first of a tool are slow."""
    seen = set()
    for command in dict.fromkeys(TOOLS):
        tool = (command.split()[1], *re.findall(r"--\S+", command))
        yield pytest.param(command, marks=[pytest.mark.slow] if tool in seen else [])
        seen.add(tool)


@pytest.mark.parametrize("command", one_of_each())
def test_a_command_asks_for_its_data_and_nothing_else(command, tmp_path, monkeypatch, capsys):
    tool, words = arguments(command)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(missing_inputs._MISSING, "hub", lambda repository: True)  # not asked, over no network
    monkeypatch.setitem(missing_inputs._MISSING, "module", lambda module: True)
    config = ROOT / words[0]
    assert config.is_file()
    words[0] = str(config)
    assert main([tool.removesuffix(".py").replace("_", "-"), *words]) == 1
    said = capsys.readouterr().err
    if tool == "curate.py":
        assert "there is no store at data/coco/pairs" in said and "paraphrase-multilingual-MiniLM-L12-v2: SynC" in said
    elif tool in ("test.py", "test_many.py"):
        checkpoint = Path(words[1])
        assert f"no checkpoint at {checkpoint}" in said
        # The folder is that of a training on the page, and its best checkpoint is chosen by CIDEr.
        assert checkpoint.name == "best_CIDEr_epoch_*.pth"
        assert any(
            c.startswith("bash tools/dist_train.sh") and f"/{checkpoint.parent.name}.py 8" in c for c in COMMANDS
        )
        assert Config.fromfile(config).default_hooks.checkpoint.save_best == "CIDEr"
    elif "--resume" in words:
        assert "needs are missing" in said
    else:
        assert re.match(rf"\d+ thing\(s\) that {config.stem} needs are missing:", said), said
        assert "data/" in said
        assert ("weights/gpt2-xl" in said) == ("gpt2-xl" in config.stem)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_every_full_scale_config_is_on_the_page():
    configs = {
        p.name
        for p in (ROOT / "configs").rglob("*.py")
        if "_base_" not in p.parts and "mini" not in p.stem and p.name != "synthcap_custom.py"
    }
    named = {Path(word).name for c in COMMANDS for word in c.split() if word.startswith("configs/")}
    assert named == configs
    assert all(resolve_config(name) for name in named)


def test_hours_are_the_formulas():
    rows = re.findall(
        r"^\| (.*?), at ([\d,]+) (?:images?|captions) a second and GPU \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M
    )
    assert len(rows) == 13
    for what, rate, count, one, eight in rows:
        epochs = int((re.search(r"(\d+) epochs", count) or [0, 1])[1])
        number = int(re.search(r"([\d,]+) (?:captions|images)", count)[1].replace(",", ""))
        hours = epochs * number / float(rate.replace(",", "")) / 3600
        for gpus, cell in ((1, one), (8, eight)):
            assert cell == "–" or float(cell.split()[0]) == pytest.approx(
                hours / gpus, abs=0.051 if hours > 5 else 0.0051
            ), what
