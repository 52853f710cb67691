"""Every component is found by name, with nothing imported but the registry."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from synthcap_mm import registry
from synthcap_mm.errors import UserError

#: Some of each registry's components.
DOCUMENTED = {
    "MODELS": [
        "OpenCLIPBackbone", "TextMemoryProjection", "GPT2CaptionHead", "SynthCaptioner", "CaptionPreprocessor",
        "MMDetTagProvider", "DiffusersGenerator", "MiniScenesPainter",
    ],
    "DATASETS": ["SynthPairDataset", "CaptionEvalDataset", "CaptionFile", "PhotoFolder", "MiniScenesCaptions"],
    "METRICS": ["CaptionMetric"],
    "CAPTION_SCORERS": ["BLEU", "CIDEr", "METEOR", "SPICE", "CLIPScore", "CHAIR", "length", "ObjectErrors"],
    "HOOKS": ["IterationSeedHook", "ResumeValidationHook", "SampleCaptionsHook", "CaptionerIdentityHook"],
    "OPTIM_WRAPPERS": ["AutocastOptimWrapper"],
    "INFERENCERS": ["CaptionInferencer"],
    "VISUALIZERS": ["CaptionVisualizer"],
}  # fmt: skip

# Each registry is asked in a process of its own, forked after the import: none may depend on another's having been asked.
LOOK_UP = """
import json, os, sys
import mmengine.runner, mmengine.visualization  # what all need, once
before = {*sys.modules}  # transformers, and what it brings: mmengine.optim imports it for its Adafactor
import synthcap_mm.registry as r
for name, components in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        registry = getattr(r, name)
        found = {c: getattr(registry.get(c), "__module__", "not found") for c in components}
        heavy = {"open_clip", "diffusers", "mmdet", "mmcv", "torchvision", "peft"} & ({*sys.modules} - before)
        print(json.dumps([name, found, sorted(heavy)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_components_are_found_by_name_and_that_imports_nothing_heavy():
    command = [sys.executable, "-c", LOOK_UP, json.dumps(DOCUMENTED)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(DOCUMENTED)
    for name, found, heavy in lines:
        assert heavy == [], name
        assert {c: why for c, why in found.items() if not why.startswith("synthcap_mm.")} == {}, name


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_registered_component_is_got_by_its_name_and_says_what_it_is(name):
    ours = getattr(registry, name)
    ours.import_from_location()
    own = {c: cls for c, cls in ours.module_dict.items() if cls.__module__.startswith("synthcap_mm.")}
    assert {*DOCUMENTED[name]} <= {*own}
    for component, found in own.items():
        assert ours.get(component) is ours.get(f"synthcap_mm.{component}") is found
        assert found.__doc__, component


@pytest.mark.parametrize(
    "name", [name for name in DOCUMENTED if name != "CAPTION_SCORERS"]
)  # MMEngine has none of these
def test_registries_are_children_of_mmengines_roots(name):
    import mmengine.registry

    ours = getattr(registry, name)
    assert ours.parent is getattr(mmengine.registry, name)
    assert ours.scope == "synthcap_mm"
    assert ours.parent.children["synthcap_mm"] is ours


def test_mmengines_own_are_found_through_ours():
    assert registry.HOOKS.get("CheckpointHook").__module__.startswith("mmengine.")
    assert registry.DATASETS.get("ConcatDataset").__module__.startswith("mmengine.")


@pytest.mark.parametrize(
    "name, wrong, near",
    [
        ("MODELS", "OpenClipBackbone", "OpenCLIPBackbone"),
        ("HOOKS", "CheckpointHok", "CheckpointHook"),  # mmengine's
        ("METRICS", "captionmetric", "CaptionMetric"),
        ("MODELS", "synthcap_mm.SynthCaptionr", "SynthCaptioner"),
    ],
)
def test_an_unknown_name_is_told_with_its_near_matches(name, wrong, near):
    assert getattr(registry, name).get(wrong) is None  # as MMEngine's contract has it
    with pytest.raises(UserError) as caught:
        getattr(registry, name).build({"type": wrong})
    assert near in str(caught.value) and wrong in str(caught.value)
    assert "custom_imports" in str(caught.value)


def test_a_name_like_nothing_lists_what_there_is():
    with pytest.raises(UserError, match=r"CaptionerIdentityHook.*SampleCaptionsHook"):
        registry.HOOKS.build({"type": "Zzzzzzzzz"})


def test_an_error_while_a_component_is_made_is_not_an_unknown_name():
    with pytest.raises(UserError, match="float16"):
        registry.OPTIM_WRAPPERS.build({"type": "AutocastOptimWrapper", "dtype": "float16", "optimizer": None})


def test_the_package_does_not_import_the_mini_world():
    """It is built on the package, and found by the registries' locations."""
    package = Path(registry.__file__).parent
    for file in package.rglob("*.py"):
        names = [n for node in ast.walk(ast.parse(file.read_text())) for n in imported_by(node)]
        inside = file.is_relative_to(package / "miniscenes")
        assert inside or not [n for n in names if n.startswith("synthcap_mm.miniscenes")], file


def imported_by(node):
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
