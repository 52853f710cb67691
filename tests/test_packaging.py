"""The wheel brings everything that it needs, says what it requires, and importing it costs nothing."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from command_line import run_process
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torchvision", "open_clip", "transformers", "tokenizers", "diffusers", "mmcv", "mmdet"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources that also has leftovers of an older build."""
    source = tmp_path_factory.mktemp("wheel") / "source"
    # What a checkout holds beside the sources: environments, data and results of any size.
    keep_out = [".*", "data", "work_dirs", "build", "dist", "*.egg-info", "__pycache__"]
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*keep_out), symlinks=True)
    for stale in ("synthcap_mm/removed.py", "synthcap_mm/.mim/configs/removed.py"):
        (source / "build/lib" / stale).parent.mkdir(parents=True, exist_ok=True)
        (source / "build/lib" / stale).write_text("")
    out = source.parent / "out"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run_process(source, sys.executable, "-m", "pip", "wheel", *options, "-w", out, ".", path=None)
    assert not (source / "synthcap_mm/.mim").exists(), "the build left copies in the source tree"
    (built,) = out.glob("*.whl")
    return built


def sources(folder: str) -> set[str]:
    """Every file of a folder of the checkout that belongs into the wheel."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_wheel_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
        script = archive.getinfo("synthcap_mm/.mim/tools/dist_train.sh")
    wanted = sources("synthcap_mm") | {f"synthcap_mm/.mim/{name}" for name in sources("configs") | sources("tools")}
    assert names == wanted
    assert not any("research" in name or "benchmarks" in name for name in names)
    assert {"synthcap_mm/.mim/configs/synthcap_mini.py", "synthcap_mm/.mim/tools/train.py"} <= names
    assert any(name.startswith("synthcap_mm/miniscenes/miniclip/") for name in names)
    assert "licenses/LICENSE" in info
    assert script.external_attr >> 16 & 0o111, "the shell scripts lost their executable bit"


@pytest.mark.slow
def test_installed_wheel_works_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    run_process(tmp_path, sys.executable, "-m", "pip", "install", *options, "--target", site, wheel, path=None)

    def command(*args: str) -> str:
        return run_process(tmp_path, sys.executable, site / "bin" / "synthcap-mm", *args, path=site)

    shipped = site / "synthcap_mm" / ".mim"
    assert "  print-config " in command("--help")
    listed = command("list")
    assert f"configs, in {shipped / 'configs'}" in listed
    assert f"tools, in {shipped / 'tools'}" in listed
    assert "SynthCaptioner" in listed
    assert "_base_" not in command("print-config", "synthcap_mini.py")
    (tmp_path / "mine.py").write_text("_base_ = 'synthcap_mm::decap/decap_mini.py'\nstore = 'data/mine'\n")
    derived = command("print-config", "mine.py")
    assert derived == command("print-config", "decap_mini.py", "--cfg-options", "store=data/mine")


@pytest.fixture(scope="module")
def requirements(wheel) -> dict[str, list[Requirement]]:
    """The wheel's requirements, by extra; those of the core under ''."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = message_from_string(archive.read(name).decode())
    assert message["Name"] == "synthcap_mm"
    assert set(message["Requires-Python"].split(",")) == {">=3.10", "<3.13"}
    found: dict[str, list[Requirement]] = {"": []}
    for line in message.get_all("Requires-Dist"):
        requirement = Requirement(line)
        extra = re.search(r'extra == "(\w+)"', str(requirement.marker or ""))
        found.setdefault(extra[1] if extra else "", []).append(requirement)
    return found


@pytest.mark.slow
def test_bounds(requirements):
    assert set(requirements) == {"", "t2i", "mmdet", "tensorboard", "faiss", "heif", "lora", "demo", "test"}
    for requirement in chain.from_iterable(requirements.values()):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert {">=", "<"} <= operators, f"{requirement} lacks a bound"


@pytest.mark.slow
def test_tested_versions_lie_within_the_bounds(requirements):
    lines = (ROOT / "requirements/constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    ranges = {canonicalize_name(r.name): r for r in chain.from_iterable(requirements.values())}
    # mmcv's; it installs the same files as the headless one.
    ranges["opencv-python"] = ranges["opencv-python-headless"]
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert ranges[canonicalize_name(pin.name)].specifier.contains(specifier.version), pin
    (ruff,) = (str(pin) for pin in pins if pin.name == "ruff")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == {ruff}


def imported(folder: str) -> dict[str, str]:
    """Top-level modules that the code of a folder imports anywhere, each with one file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            found.update({name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names})
    return found


@pytest.mark.slow
def test_imports_are_required_and_requirements_imported(requirements):
    packages = metadata.packages_distributions()
    # Of extras that may not be installed here.
    packages |= {
        "mmdet": ["onedl-mmdetection"],
        "mmcv": ["onedl-mmcv"],
        "diffusers": ["diffusers"],
        "faiss": ["faiss-cpu"],
        "pillow_heif": ["pillow-heif"],
        "peft": ["peft"],
    }
    optional = ("t2i", "mmdet", "faiss", "heif", "lora")
    runtime = {canonicalize_name(r.name) for extra in ("", *optional) for r in requirements[extra]}
    modules = imported("synthcap_mm") | imported("tools")
    used = set()
    for module, file in modules.items():
        if module in sys.stdlib_module_names or module == "synthcap_mm" or (ROOT / "tools" / f"{module}.py").exists():
            continue
        distributions = {canonicalize_name(name) for name in packages.get(module, [module])}
        assert distributions & runtime, f"{file} imports {module}, which setup.py does not require"
        used |= distributions
    core = {canonicalize_name(r.name) for r in requirements[""]}
    # What our requirements need and do not all require: open_clip torchvision, mmengine OpenCV, pycocoevalcap pycocotools.
    for_others = {"torchvision", "opencv-python-headless", "pycocotools"}
    assert core - used == for_others, "required, but imported nowhere"


def test_import_is_light():
    code = (
        "import sys, time\nstart = time.perf_counter()\nimport synthcap_mm\n"
        "took = time.perf_counter() - start\nimport json, synthcap_mm.registry\n"
        "print(json.dumps([took, sorted(name for name in sys.modules if '.' not in name)]))\n"
    )
    runs = [json.loads(run_process(ROOT, sys.executable, "-c", code)) for _ in range(3)]
    assert min(took for took, _ in runs) < 1.0
    # Nor does the registry, which plugins import to register their components.
    assert HEAVY & set(runs[0][1]) == set()


def make(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """Run make without what a surrounding `make test` hands down."""
    handed_down = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "MMDET", "ARGS"}
    inherited = {key: value for key, value in os.environ.items() if key not in handed_down}
    return subprocess.run(["make", *args], cwd=cwd, env={**inherited, **env}, capture_output=True, text=True)


def test_mmdet_is_installed_after_torch(tmp_path):
    venv = tmp_path / "venv"
    dry = make("-n", "test", "MMDET=1", f"VENV={venv}", "PYTHON=python3")
    assert dry.returncode == 0, dry.stderr
    steps = [line for line in dry.stdout.splitlines() if f"{venv}/bin/python " in line]
    order = [
        next(n for n, step in enumerate(steps) if wanted in step)
        for wanted in (" setuptools wheel", "--no-build-isolation --editable '.'", " ninja", "'.[mmdet]'", "-m pytest")
    ]
    assert order == sorted(order)
    plain = make("-n", "test", f"VENV={venv}", "PYTHON=python3").stdout
    assert "'.[test]'" in plain
    assert "[mmdet]" not in plain
    demo = make("-n", "demo", f"VENV={venv}", "PYTHON=python3").stdout
    assert "tools/train.py configs/synthcap/synthcap_plus_mini.py" in demo


def test_environment_is_reused_until_its_requirements_change(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "setup.py", tmp_path)
    log = tmp_path / "log"
    python = tmp_path / "python"
    # Stands in for the interpreter and for the environment's: writes down what it is asked.
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH $@" >> "{log}"\nmkdir -p "{tmp_path}/.venv/bin"\n')
    python.chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(python)

    def asked() -> list[str]:
        log.unlink(missing_ok=True)
        done = make("env", f"PYTHON={python}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = log.read_text().splitlines() if log.exists() else []
        assert all(line.startswith(f"{tmp_path} ") for line in lines), "PYTHONPATH is not the checkout"
        return [line for line in lines if " install " in line]

    assert [line.split()[-1] for line in asked()] == ["wheel", ".", ".[test]"]
    assert asked() == []
    with open(tmp_path / "requirements/constraints.txt", "a") as file:
        file.write("tqdm==4.67.1\n")
    assert len(asked()) == 3


@pytest.mark.parametrize(
    "named, said", [("old", "old is Python 3.9.1"), ("false", "false is no Python"), ("", "on PATH")]
)
def test_a_python_that_does_not_suit_is_named(tmp_path, named, said):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo Python 3.9.1;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make("env", f"PYTHON={named}", f"VENV={tmp_path / 'venv'}", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2 and said in done.stderr
    assert "Python 3.10, 3.11 or 3.12" in done.stderr


def test_ci_parses_and_runs_the_readmes_command():
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    for target in ("make test MMDET=1", "make test-slow MMDET=1"):
        assert target in (ROOT / ".ci/run").read_text()
    assert "make test MMDET=1" in (ROOT / "README.md").read_text()
