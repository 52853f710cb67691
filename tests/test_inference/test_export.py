"""One folder that needs nothing else, of which nothing is executed."""

import copy
import json
import shutil

import numpy as np
import pytest
import tiny_clip
import torch

from synthcap_mm.files import file_sha256
from synthcap_mm.inference import export as export_module
from synthcap_mm.inference.export import export_captioner, sum_of_weights
from synthcap_mm.inference.export_folder import EXPORT_SCHEMA, ExportError, check_settings, read_export
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.registry import MODELS


@pytest.fixture(scope="module")
def exported(tiny_captioner, tmp_path_factory):
    config, checkpoint, _ = tiny_captioner
    folder = tmp_path_factory.mktemp("exports") / "captioner"
    manifest = export_captioner(copy.deepcopy(config), checkpoint, folder)
    return folder, manifest


def components():
    """Encoder and tag provider of a user's own, which no export holds."""
    return {"encoder": {"type": "TinyEncoder"}, "tag_provider": {"type": "TinyTagger"}}


def rewrite(folder, name, change):
    """Change a json file of an export, and its checksum: what somebody with bad intentions would do."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))
    if name != "export.json":
        manifest = json.loads((folder / "export.json").read_text())
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        (folder / "export.json").write_text(json.dumps(manifest))


def test_it_captions_as_before_without_store_config_and_checkpoint(
    exported, tiny_captioner, tiny_stores, tmp_path, monkeypatch
):
    config, checkpoint, photos = tiny_captioner
    before = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")
    wanted = before(photos, explain=True, n_best=3)["predictions"]
    shutil.copytree(exported[0], tmp_path / "elsewhere")
    from synthcap_mm.stores import Store

    monkeypatch.setattr(Store, "open", lambda *a, **k: pytest.fail("an export needs no store"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("an export holds no pickles"))
    after = CaptionInferencer.from_pretrained(tmp_path / "elsewhere", device="cpu", **components())
    assert after(photos, explain=True, n_best=3)["predictions"] == wanted
    assert exported[1]["compared"]["same_captions"] == exported[1]["compared"]["pictures"] > 0
    assert exported[1]["compared"]["least_cosine"] == pytest.approx(1, abs=1e-6)


def test_what_is_in_the_folder(exported):
    folder, manifest = exported
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "export.json", "memory.safetensors", "memory.txt", "model.safetensors",
        "tokenizer.json",
    ]  # fmt: skip
    text = (
        (folder / "config.json").read_text() + (folder / "export.json").read_text() + (folder / "README.md").read_text()
    )
    assert "/tmp" not in text and str(folder) not in text  # no path of this machine
    assert (
        manifest["memory"]["rows"] == manifest["memory"]["of"] == 36 == len((folder / "memory.txt").open().readlines())
    )
    assert "**not** in this folder" in (folder / "README.md").read_text()
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o044, f"{path} is for its owner only"


def test_own_components_are_named_not_copied(exported, tiny_captioner):
    photos = tiny_captioner[2]
    with pytest.raises(ValueError, match=r"The encoder is a component of your own \(TinyEncoder\): import its module"):
        CaptionInferencer.from_pretrained(exported[0], device="cpu")(photos)
    with pytest.raises(ValueError, match=r"The tag provider \(TinyTagger\) is not in the folder"):
        CaptionInferencer.from_pretrained(exported[0], device="cpu", encoder={"type": "TinyEncoder"})(photos)
    with pytest.raises(RuntimeError, match=r"not the encoder that the captioner was trained with"):
        wrong = {**components(), "encoder": {"type": "TinyEncoder", "seed": 2, "name": "other"}}
        CaptionInferencer.from_pretrained(exported[0], device="cpu", **wrong)(photos)


def test_int8_and_fewer_rows_lose_little_and_say_how_much(tiny_captioner, tmp_path):
    config, checkpoint, photos = tiny_captioner
    small = export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "int8", memory="int8")
    assert 0.9999 < small["compared"]["least_cosine"] < 1
    few = export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "few", memory_rows=6)
    assert few["memory"]["rows"] == 6 and few["memory"]["of"] == 36
    assert few["compared"]["least_cosine"] < small["compared"]["least_cosine"]
    assert f"{few['compared']['same_captions']} of" in (tmp_path / "few" / "README.md").read_text()
    for name, rows in (("int8", 36), ("few", 6)):
        captioner = CaptionInferencer.from_pretrained(tmp_path / name, device="cpu", **components())
        (found, *_) = captioner(photos, explain=True, top_memory=99)["predictions"]
        assert len(found["memory"]) == rows
        assert sum(m["weight"] for m in found["memory"]) == pytest.approx(1, abs=1e-4)


def test_the_most_useful_rows_are_those_with_most_weight():
    generator = torch.Generator().manual_seed(0)
    memory = torch.nn.functional.normalize(torch.randn(50, 8, generator=generator), dim=1)
    queries = memory[[3, 3, 7, 11]] + 0.01
    weights = sum_of_weights(queries, memory, 0.01)
    assert weights.sum() == pytest.approx(4, abs=1e-4)
    assert weights.topk(3).indices.tolist()[0] == 3 and set(weights.topk(3).indices.tolist()) == {3, 7, 11}
    by_hand = (queries @ memory.T / 0.01).softmax(1).sum(0)
    torch.testing.assert_close(weights, by_hand)


def test_it_appears_whole_or_not_at_all(tiny_captioner, tmp_path, monkeypatch):
    config, checkpoint, _ = tiny_captioner
    monkeypatch.setattr(export_module, "model_card", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match=r"there is something at .*there already: give another folder"):
        export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "there")
    for option, words in (({"memory": "int4"}, "memory is one of"), ({"memory_rows": 0}, "at least 1, got 0")):
        with pytest.raises(ValueError, match=words):
            export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "out", **option)


# ---- what is refused
@pytest.fixture()
def copied(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_an_export_of_a_newer_version_is_refused(copied):
    rewrite(copied, "export.json", lambda m: m.update(schema_version=EXPORT_SCHEMA + 1, synthcap_mm="9.1"))
    with pytest.raises(
        ExportError, match=r"has schema 2 \(synthcap_mm 9\.1\), this synthcap_mm reads up to 1: update synthcap_mm"
    ):
        CaptionInferencer.from_pretrained(copied)


def test_no_export_and_damaged_ones_are_said(copied, tmp_path):
    with pytest.raises(ExportError, match=r"is no exported captioner \(no export\.json in it\)\. Make one: python"):
        CaptionInferencer.from_pretrained(tmp_path)
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    with pytest.raises(ExportError, match=r"model\.safetensors is damaged \(its checksum differs\)"):
        read_export(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(ExportError, match=r"lacks model\.safetensors: copy the whole folder"):
        read_export(copied)
    (copied / "export.json").write_text("{")
    with pytest.raises(ExportError, match=r"export\.json is not valid json"):
        read_export(copied)
    with pytest.raises(ValueError, match=r"has its own weights; leave .* out"):
        CaptionInferencer(copied, "a.pth")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c["model"].update(type="subprocess.Popen"), "'subprocess.Popen', which is not one of synthcap_mm's"),
        (lambda c: c["model"]["necks"][0].update(type="os.system"), "'os.system'"),
        (lambda c: c.update(encoder={"type": "builtins.exec"}), "'builtins.exec'"),
        (lambda c: c.update(tag_provider={"type": "synthcap_mm.os.system"}), "not one of synthcap_mm's"),
        (lambda c: c["model"].update(_scope_="evil"), "'_scope_' has no place in an export"),
        (lambda c: c["model"].update(init_cfg={"type": "Pretrained", "checkpoint": "x"}), "'init_cfg' has no place"),
        (lambda c: c["model"]["head"].update(pretrained="evil/gpt2"), "'pretrained' has no place"),
        (
            lambda c: c.update(encoder={"type": "MiniCLIP", "pretrained": "evil.pt"}),
            "a file of code or pickled objects",
        ),
        (lambda c: c.update(tag_provider={"type": "MMDetTagProvider", "config": "x/evil.py"}), "a file of code"),
        (
            lambda c: c.update(encoder={"type": "MiniCLIP", "pretrained": {"$file": "../evil.safetensors"}}),
            "does not list",
        ),
    ],
)
def test_an_export_brings_no_code(copied, change, words):
    rewrite(copied, "config.json", change)
    with pytest.raises(ExportError, match=words):
        CaptionInferencer.from_pretrained(copied, device="cpu")


def test_files_outside_and_files_of_code_are_refused(copied):
    (copied / "x.py").write_text("raise SystemExit('executed')")
    record = {"bytes": (copied / "x.py").stat().st_size, "sha256": file_sha256(copied / "x.py")}
    rewrite(copied, "export.json", lambda m: m["files"].update({"x.py": record}))
    with pytest.raises(ExportError, match=r"holds x\.py, which is not data"):
        read_export(copied)
    rewrite(copied, "export.json", lambda m: (m["files"].pop("x.py"), m["files"].update({"../a.json": record})))
    with pytest.raises(ExportError, match=r"names the file '\.\./a\.json', which is not in it"):
        read_export(copied)


def test_registered_components_of_the_users_own_may_be_named(tiny):
    check_settings({"type": "TinyEncoder", "parts": [{"type": "synthcap_mm.MiniCLIP"}]})
    with pytest.raises(ExportError, match="import the module that registers it first"):
        check_settings({"type": "NobodysEncoder"})


# ---- encoders and detectors
def test_an_encoder_from_files_is_in_the_folder(tiny_captioner, tiny_stores, tmp_path):
    """The memory was made by another encoder; only whether this one comes back the same is looked at."""
    config = copy.deepcopy(tiny_captioner[0])
    config["synthesis"].pop("tag_provider")
    files = tiny_clip.write(tmp_path / "clip")
    config["synthesis"]["encoder"] = {"type": "OpenCLIPBackbone", "quick_gelu": True, **files}
    original = MODELS.build(copy.deepcopy(config["synthesis"]["encoder"]))
    writer = object.__new__(export_module._Writer)
    writer.folder, writer.left_out = tmp_path / "out", {}
    writer.folder.mkdir()
    writer.captioner = type("C", (), {"_encoder_cfg": config["synthesis"]["encoder"]})
    writer.model = type("M", (), {"backbone": original})
    written = writer._encoder(include=False)
    assert written["pretrained"] == {"$file": "encoder/weights.safetensors"}
    assert json.loads(json.dumps(written)) == written and "/tmp" not in json.dumps(written)
    paths = {k: str(writer.folder / v["$file"]) if isinstance(v, dict) else v for k, v in written.items()}
    shutil.rmtree(tmp_path / "clip")
    again = MODELS.build(paths)
    for part in ("image", "text"):
        assert np.allclose(again.fingerprint()[part], original.fingerprint()[part], atol=1e-6)
    assert again.activation == "quick_gelu"


@pytest.mark.mmdet
@pytest.mark.real
def test_a_real_detector_is_in_the_folder(real_data, tmp_path):
    pytest.importorskip("mmdet", reason="MMDET ABSENT")
    from PIL import Image

    settings = {
        "type": "MMDetTagProvider",
        "config": "yolox/yolox_nano_8xb8-300e_coco",
        "checkpoint": str(real_data / "yolox_nano" / "yolox_nano_mmdet.pth"),
    }
    writer = object.__new__(export_module._Writer)
    writer.folder = tmp_path
    written = writer._detector(settings)
    check_settings(written)
    again = MODELS.build({**written, "checkpoint": str(tmp_path / written["checkpoint"]["$file"])})
    photos = [Image.open(p) for p in sorted((real_data / "coco_mini" / "val2017").glob("*.jpg"))[:2]]
    assert again.detect(photos) == MODELS.build(settings).detect(photos)


@pytest.mark.mmdet
def test_a_detectors_own_config_is_not_exported(tmp_path):
    pytest.importorskip("mmdet", reason="MMDET ABSENT")
    (tmp_path / "mine.py").write_text("model = dict()")
    writer = object.__new__(export_module._Writer)
    writer.folder = tmp_path
    with pytest.raises(ExportError, match=r"mine\.py is a file of Python, which an export does not hold: name one"):
        writer._detector({"type": "MMDetTagProvider", "config": str(tmp_path / "mine.py"), "checkpoint": "x.pth"})
