"""One ``main(argv)`` for ``synthcap-mm`` and ``tools/``: what it returns, prints, and leaves behind."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import ROOT, run_command, run_process
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope

from synthcap_mm import cli
from synthcap_mm.cli import COMMANDS, main, stopping, what_to_mend
from synthcap_mm.commands import as_typed, command, typed_command
from synthcap_mm.errors import NotYet, UserError
from synthcap_mm.registry import DATASETS


@pytest.fixture
def fake(monkeypatch):
    """Makes ``train`` do something else."""

    def replace(action):
        monkeypatch.setitem(COMMANDS, "train", action)

    return replace


def raising(error):
    def action(argv):
        raise error

    return action


@pytest.mark.parametrize(
    "error, status",
    [
        (UserError("no such thing"), 1),
        (NotYet("no such thing yet"), 75),
        (OSError(errno.ENOSPC, "no space"), 1),
        (SystemExit("as a script says it"), 1),
        (FileNotFoundError(errno.ENOENT, "no such file", "x.json"), 1),
    ],
)
def test_what_the_user_can_mend_is_a_sentence_and_a_status(fake, capsys, error, status):
    fake(raising(error))
    assert main(["train", "x.py"]) == status
    printed = capsys.readouterr()
    assert printed.out == "" and 0 < printed.err.count("\n") <= 2


def test_an_error_of_the_program_keeps_its_traceback(fake, monkeypatch):
    fake(raising(ValueError("operands do not fit")))  # raised outside of the package
    with pytest.raises(ValueError):
        main(["train"])
    fake(lambda argv: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError):
        main(["train"])
    fake(raising(UserError("x")))
    monkeypatch.setenv("SYNTHCAP_TRACEBACK", "1")
    with pytest.raises(UserError):
        main(["train"])


def test_a_component_that_refuses_its_settings_is_a_sentence():
    @DATASETS.register_module(force=True)
    class Picky:
        def __init__(self, size=3):
            if size < 0:
                raise ValueError("size must not be negative")
            self.values = torch.zeros(3) + torch.zeros(size)

    for settings, sentence in (
        ({"size": -1}, "size must not be negative"),
        ({"sise": 1}, "sise"),
        ({"size": 2}, None),  # a fault of its code
    ):
        with pytest.raises(Exception) as caught:
            DATASETS.build({"type": "Picky", **settings})
        mended = what_to_mend(caught.value)
        assert mended is None if sentence is None else sentence in mended
    with pytest.raises(Exception) as caught:
        DATASETS.build({"type": "Pickyy"})
    assert "Picky" in what_to_mend(caught.value)


def test_ranks_speak_once(fake, capsys, monkeypatch):
    fake(raising(UserError("all ranks see this")))
    waits = []
    monkeypatch.setattr(cli.time, "sleep", waits.append)
    monkeypatch.setenv("RANK", "1")
    assert main(["train"]) == 1
    # Nobody ended it while it waited, so its fault is its own.
    assert waits and capsys.readouterr().err == "rank 1: all ranks see this\n"
    monkeypatch.setenv("RANK", "0")
    assert main(["train"]) == 1
    assert len(waits) == 1 and capsys.readouterr().err == "all ranks see this\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_command_to_go_on(fake, capsys, monkeypatch, number):
    before = signal.getsignal(number)
    fake(lambda argv: os.kill(os.getpid(), number))
    monkeypatch.setattr(stopping, "_end", lambda message, last: sys.exit(print(message, file=sys.stderr) or 130))
    # A checkpoint that was named is not gone back to.
    for resumed in ([], ["--resume"], ["--resume", "epoch_3.pth"], ["--resume=epoch_3.pth"]):
        assert main(["train", "my config.py", *resumed, "--amp"]) == 130
        assert capsys.readouterr().err.rstrip().endswith(command("train", "my config.py", "--amp", "--resume"))
    assert signal.getsignal(number) == before


def test_nothing_is_left_behind(fake):
    def action(argv):
        os.environ["LOCAL_RANK"] = "7"
        sys.path.append("/nowhere")
        for kind in (MMLogger, MessageHub, DefaultScope):
            kind.get_instance("a run", **({"scope_name": "mmdet"} if kind is DefaultScope else {}))

    fake(action)
    kinds = (MMLogger, MessageHub, DefaultScope)
    before = dict(os.environ), list(sys.path), [list(kind._instance_dict) for kind in kinds]
    assert main(["train"]) == 0
    assert (dict(os.environ), sys.path, [list(kind._instance_dict) for kind in kinds]) == before


@pytest.mark.parametrize("argv", [[], ["trian"], ["list", "x"], ["train"], ["synthesize", "x.py", "--task", "3/3"]])
def test_wrong_use_is_status_2(argv, capsys):
    assert main(argv) == 2
    assert "usage:" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert main(["--version"]) == 0
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert len(capsys.readouterr().out) > 150


def test_help_is_light(tmp_path):
    code = (
        "import sys\nfrom synthcap_mm.cli import main\nmain(['train', '--help'])\n"
        "print('LOADED', 'torch' in sys.modules, 'mmengine' in sys.modules)\n"
    )
    assert run_process(tmp_path, sys.executable, "-c", code).endswith("LOADED False False\n")


def test_every_command_is_a_script_that_runs_from_a_clone(tmp_path):
    scripts = {path.stem.replace("_", "-"): path for path in (ROOT / "tools").rglob("*.py")}
    assert set(COMMANDS) - {"list"} <= set(scripts)
    for name in set(COMMANDS) - {"list"}:
        assert f'main(["{name}", *sys.argv[1:]])' in scripts[name].read_text()
    # Not installed, and not on Python's path.
    said = run_process(tmp_path, sys.executable, scripts["store"], "nowhere", path=None, status=1)
    assert "nowhere" in said and "Traceback" not in said


def test_list(tmp_path):
    said = run_command(tmp_path, "list")
    lines = {line.split()[0]: line.split()[-1] for line in said.splitlines() if line.startswith("  ")}
    assert lines["TextMemoryProjection"].startswith("synthcap_mm.models.necks.")
    assert lines["CaptionMetric"].startswith("synthcap_mm.evaluation.")
    assert "synthcap_mini.py" in lines and f"tools, in {ROOT / 'tools'}" in said


def test_print_config(tmp_path):
    arguments = ["--cfg-options", "train_cfg.max_epochs=77", "--save-path", "out.py"]
    said = run_command(tmp_path, "print-config", "synthcap_mini.py", *arguments)
    assert "max_epochs=77" in said and "_base_" not in said
    assert "max_epochs=77" in (tmp_path / "out.py").read_text()


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("list", "store", "eval-captions", "prepare-data")])
def test_every_command_finds_shipped_configs(name, tmp_path):
    more = {
        "test": ["x.pth"],
        "test-many": ["x.pth"],
        "export": ["x.pth", "o"],
        "caption": ["x.pth", "p", "--out", "o"],
    }
    said = run_command(tmp_path, name, "synthcap_minni.py", *more.get(name, []), status=1)
    assert "did you mean synthcap_mini.py" in said


@pytest.mark.parametrize(
    "name, arguments, word",
    [
        ("train", ["--cfg-options", "auto_synthesize=False"], "tools/synthesize.py"),
        ("train", ["--resume", "nope.pth"], "nope.pth"),
        ("train", ["--dry-run", "--resume"], "--resume"),
        ("test", ["nope.pth"], "nope.pth"),
        ("test-many", ["nope.pth"], "nope.pth"),
        ("synthesize", ["--dry-run", "--only", "text"], "--only"),
        ("train", ["--cfg-options", "optimizer.lr=1"], "optim_wrapper.optimizer.lr"),
        ("synthesize", ["--cfg-options", "synthesis.sed=1"], "synthesis.seed"),
    ],
)
def test_refusals_leave_nothing(name, arguments, word, tmp_path):
    assert word in run_command(tmp_path, name, "synthcap_mini.py", *arguments, status=1)
    assert not list(tmp_path.iterdir())


def test_a_test_without_a_test_set(tmp_path):
    (tmp_path / "x.pth").touch()
    assert "test_dataloader" in run_command(tmp_path, "test", "synthcap_custom.py", "x.pth", status=1)


@pytest.mark.parametrize(
    "typed, advice",
    [
        ("tools/train.py", "python tools/encode_images.py 'my config.py'"),
        ("/a/tools/train.py", "python /a/tools/encode_images.py 'my config.py'"),
        ("/a/tools/misc/print_config.py", "python /a/tools/encode_images.py 'my config.py'"),
        ("/usr/bin/synthcap-mm", "synthcap-mm encode-images 'my config.py'"),
    ],
)
def test_advice_is_as_it_was_typed(typed, advice, monkeypatch):
    monkeypatch.setattr(sys, "argv", [typed])
    assert command("encode-images", "my config.py", None) == advice
    assert as_typed("type: python tools/encode_images.py 'my config.py'") == f"type: {advice}"
    monkeypatch.delenv("SYNTHCAP_COMMAND", raising=False)
    assert typed_command("encode-images", "my config.py") == advice
    monkeypatch.setenv("SYNTHCAP_COMMAND", "bash tools/dist_train.sh x.py 2")
    assert typed_command("train", "x.py") == "bash tools/dist_train.sh x.py 2"


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(tmp_path):
    """To a launcher and two ranks at once, on the CPU: one message, the status of a stop, nothing half written."""
    options = ["--cfg-options", "synthesis.captions.num=20000"]
    launched = ["bash", ROOT / "tools" / "dist_synthesize.sh", "synthcap_mini.py", 2, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(
            list(map(str, launched)), cwd=tmp_path, env=env, stdout=file, stderr=file, start_new_session=True
        )
    deadline = time.monotonic() + 240
    while not list(tmp_path.rglob("text_features-*/0*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("stopped.") == 1 and "dist_synthesize.sh synthcap_mini.py 2" in said.split("type:")[1]
    assert "Traceback" not in said and not list((tmp_path / "data").rglob("*.tmp"))


def test_two_ranks_say_once_what_is_wrong(tmp_path):
    said = run_process(tmp_path, "bash", ROOT / "tools" / "dist_test.sh", "synthcap_mini.py", "no.pth", 2, status=1)
    assert said.count("no checkpoint at no.pth") == 1 and "Traceback" not in said and "ChildFailed" not in said


@pytest.mark.parametrize("name", ["train", "list"])
def test_a_clash_is_named_before_a_broken_mmengine_is_imported(tmp_path, name):
    for distribution, version in (("onedl_mmengine", "0.10.12"), ("mmengine", "0.10.7")):
        (tmp_path / f"{distribution}-{version}.dist-info").mkdir()
        (tmp_path / f"{distribution}-{version}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
    (tmp_path / "mmengine").mkdir()
    (tmp_path / "mmengine" / "__init__.py").write_text("raise ImportError('torn')")
    words = ["-m", "synthcap_mm.cli", "list"] if name == "list" else [ROOT / "tools" / "train.py", "x.py"]
    said = run_process(tmp_path, sys.executable, *words, status=1, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "pip uninstall -y mmengine onedl-mmengine" in said and "torn" not in said


@pytest.mark.slow
def test_one_rank_that_fails_is_seen(tmp_path):
    (tmp_path / "faulty.py").write_text(
        "import os, time\nfrom synthcap_mm.errors import UserError\n"
        "if os.environ['RANK'] == '1':\n    raise UserError('this disk is full')\ntime.sleep(60)\n"
    )
    (tmp_path / "mine.py").write_text("custom_imports = dict(imports=['faulty'])\n")
    said = run_process(tmp_path, "bash", ROOT / "tools" / "dist_train.sh", "mine.py", 2, status=1)
    assert "rank 1: this disk is full" in said and "Traceback" not in said


def test_advice_that_names_a_script_already_stays(monkeypatch):
    from synthcap_mm import commands

    monkeypatch.setattr("sys.argv", ["/somewhere/tools/test.py"])
    assert commands.as_typed("type: python tools/train.py a.py") == "type: python /somewhere/tools/train.py a.py"
    typed = f"type: {commands.command('train', 'a.py')}"
    assert commands.as_typed(typed) == typed
