"""The console command finds the tools, hands them their arguments, and lists what is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthcap_mm import cli, config_files

ROOT = Path(__file__).resolve().parents[1]


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, from a folder that is not the checkout."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "synthcap_mm.cli", *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package that ships two tools which say what they were given."""
    package = tmp_path / "site" / "synthcap_mm"
    tools = package / ".mim" / "tools"
    (tools / "misc").mkdir(parents=True)
    (tools / "encode_images.py").write_text(
        '"""Encodes photos.\n\nMore."""\nimport sys\nimport beside\n'
        "print(__name__, sys.argv[1:], beside.VALUE)\nsys.exit(3)\n"
    )
    (tools / "misc" / "print_config.py").write_text('"""Prints a config."""\n')
    (tools / "_shared.py").write_text("")
    (tools / "dist_train.sh").write_text("")
    (tools / "beside.py").write_text('"""A neighbour."""\nVALUE = 7\n')
    monkeypatch.setattr(config_files, "PACKAGE_DIR", package)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tools
    sys.modules.pop("beside", None)


def test_tools_are_commands(shipped):
    assert list(cli.find_tools()) == ["beside", "encode-images", "print-config"]


def test_arguments_and_exit_status_pass_through(shipped, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["encode-images", "mini.py", "--cfg-options", "a.b=1", "--help"])
    assert stop.value.code == 3
    assert capsys.readouterr().out == "__main__ ['mini.py', '--cfg-options', 'a.b=1', '--help'] 7\n"


def test_help_has_a_line_for_each_command(shipped, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "  encode-images  Encodes photos.\n" in out
    assert "  print-config   Prints a config.\n" in out
    assert "  list           Lists" in out
    assert "More." not in out


@pytest.mark.parametrize("argv", [[], ["encode_imagse"], ["list", "x"]])
def test_wrong_use_is_an_error(shipped, argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "usage: synthcap-mm" in capsys.readouterr().err


def test_help_is_light(tmp_path):
    code = (
        "import sys\nfrom synthcap_mm import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "except SystemExit:\n    print('LOADED', 'torch' in sys.modules, 'mmengine' in sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.endswith("LOADED False False\n"), done.stderr


def test_commands_of_the_issue():
    tools = cli.find_tools()
    assert {"train", "test", "synthesize", "encode-images", "print-config"} <= set(tools)
    assert "list" not in tools
    # Two scripts of the same name in different folders would hide each other.
    assert len(tools) == len(list((ROOT / "tools").rglob("[!_]*.py")))


def test_list(tmp_path):
    done = run("list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model components:" in done.stdout
    lines = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert lines["TextMemoryProjection"].startswith("synthcap_mm.models.necks.")
    assert lines["CaptionMetric"].startswith("synthcap_mm.evaluation.")
    assert "synthcap_mini.py" in lines
    assert f"tools, in {ROOT / 'tools'}" in done.stdout


def test_print_config(tmp_path):
    args = ["--cfg-options", "train_cfg.max_epochs=77", "--save-path", "out.py"]
    done = run("print-config", "synthcap_mini.py", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "max_epochs=77" in done.stdout
    assert "_base_" not in done.stdout
    assert "max_epochs=77" in (tmp_path / "out.py").read_text()


@pytest.mark.parametrize(
    "command",
    ["train", "test", "test-many", "synthesize", "encode-images", "curate", "inspect-pairs", "print-config"],
)
def test_every_tool_finds_shipped_configs(command, tmp_path):
    done = run(command, "synthcap_minni.py", *(["none.pth"] if command.startswith("test") else []), cwd=tmp_path)
    assert done.returncode != 0
    assert "did you mean synthcap_mini.py" in done.stderr
