"""One folder that needs nothing else, of which nothing is executed."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from safetensors.torch import load_file, save_file
from small_export import train_on_two
from store_files import make
from tiny_store import SEARCH

from synthcap_mm.errors import UserError
from synthcap_mm.exportable import SafetensorsFile, Texts, data
from synthcap_mm.files import file_sha256
from synthcap_mm.inference import export as export_module
from synthcap_mm.inference import export_parts
from synthcap_mm.inference.export import export_captioner
from synthcap_mm.inference.export_folder import EXPORT_SCHEMA, read_export
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.models.necks.base import BaseNeck
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import Tag


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
    monkeypatch.setattr(Store, "open", lambda *a, **k: pytest.fail("an export needs no store"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("an export holds no pickles"))
    after = CaptionInferencer.from_pretrained(tmp_path / "elsewhere", device="cpu", **components())
    assert after(photos, explain=True, n_best=3)["predictions"] == wanted
    assert exported[1]["compared"]["same_captions"] == exported[1]["compared"]["images"] > 0


def test_what_is_in_the_folder(exported, tiny_stores):
    folder, manifest = exported
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "export.json", "memory.safetensors", "memory.txt", "model.safetensors",
        "tokenizer.json",
    ]  # fmt: skip
    text = (
        (folder / "config.json").read_text() + (folder / "export.json").read_text() + (folder / "README.md").read_text()
    )
    assert "/tmp" not in text and str(folder) not in text  # no path of this machine
    rows = len(Store.open(tiny_stores[0]).caption_rows())
    assert manifest["memory"]["rows"] == rows == len((folder / "memory.txt").open().readlines())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: synthcap_mm") and "weights are **not** in this folder" in card
    for line in (
        f"- memory: {rows} captions",
        "- captions: 40 (",
        "| `memory.txt` | ",
        manifest["compared"]["summary"],
    ):
        assert line in card, card
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o044, f"{path} is for its owner only"


def test_own_components_with_their_files_are_in_the_folder(tiny_captioner, tiny, tmp_path, monkeypatch):
    """An encoder with weights, a tag provider with a vocabulary: the files are gone, and nothing is to be given."""

    class OwnEncoder(tiny.TinyEncoder):
        exportable = {"checkpoint": SafetensorsFile()}

        def __init__(self, checkpoint: str) -> None:
            super().__init__()
            for name, value in load_file(checkpoint).items():
                setattr(self, name, value)

    class OwnTagger(tiny.TinyTagger):
        exportable = {"names": Texts(), **data("score")}

        def __init__(self, names: str | list, score: float = 0.9) -> None:
            super().__init__(score)
            self.names = [*names] if isinstance(names, list) else Path(names).read_text().split()

        def detect(self, images):
            return [[Tag(self.names[len(tag.name) % 2], tag.score) for tag in tags] for tags in super().detect(images)]

    class OwnNeck(BaseNeck):
        exportable = {"turn": SafetensorsFile()}

        def __init__(self, turn: str) -> None:
            super().__init__()
            self.signs = load_file(turn)["signs"]

        def forward(self, batch, phase):
            return batch.replace(feats=batch.feats * self.signs), {}

    for kind in (OwnEncoder, OwnTagger, OwnNeck):
        monkeypatch.setitem(MODELS.module_dict, kind.__name__, kind)
    (files := tmp_path / "files").mkdir()
    encoder = tiny.TinyEncoder()
    save_file({"words": encoder.words, "pixels": encoder.pixels}, files / "own.safetensors")
    (files / "names.txt").write_text("apple\npear\n")
    save_file({"signs": -torch.ones(1)}, files / "turn.safetensors")
    config, checkpoint, photos = tiny_captioner
    config = copy.deepcopy(config)
    config["synthesis"] |= {
        "encoder": {"type": "OwnEncoder", "checkpoint": str(files / "own.safetensors")},
        "tag_provider": {"type": "OwnTagger", "names": str(files / "names.txt"), "score": 0.7},
    }
    turn = {"type": "OwnNeck", "turn": str(files / "turn.safetensors")}
    plain = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")(photos)["predictions"]
    state = torch.load(checkpoint)
    config["model"]["necks"] = {"turn": turn, **config["model"]["necks"]}
    later = {f"necks.{n}.": f"necks.{n + 1}." for n in range(9)}
    state["state_dict"] = {
        name.replace(name[:8], later.get(name[:8], name[:8])): value for name, value in state["state_dict"].items()
    }
    torch.save(state, checkpoint := str(tmp_path / "turned.pth"))
    wanted = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")(photos, explain=True)["predictions"]
    assert [one["caption"] for one in wanted] != [one["caption"] for one in plain]
    manifest = export_captioner(config, checkpoint, tmp_path / "own export")
    shutil.rmtree(files)
    assert manifest["left_out"] == {} and {tag["name"] for tag in wanted[0]["tags"]} <= {"apple", "pear"}
    again = CaptionInferencer.from_pretrained(tmp_path / "own export", device="cpu")
    assert again(photos, explain=True)["predictions"] == wanted
    assert again.tag_provider_cfg == {"type": "OwnTagger", "names": ["apple", "pear"], "score": 0.7}
    card = (tmp_path / "own export" / "README.md").read_text()
    command = f"synthcap-mm caption 'own export' photos/ --out captions.jsonl --import {__name__}"
    assert f"```bash\n{command}\n```" in card and f"import {__name__}\n" in card
    assert "| `encoder/checkpoint.safetensors` |" in card


def test_options_that_cannot_be_in_a_folder_are_told(tiny_captioner, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny.TinyTagger, "exportable", {"score": SafetensorsFile()}, raising=False)
    config, checkpoint, _ = tiny_captioner
    config = copy.deepcopy(config)
    config["synthesis"]["tag_provider"]["score"] = 0.7
    left_out = export_captioner(config, checkpoint, tmp_path / "out", samples=2)["left_out"]
    assert r"tag_provider.score is 0.7" in left_out["tag_provider"] and "exportable" in left_out["encoder"]
    assert "synthcap-mm caption" not in (tmp_path / "out" / "README.md").read_text()


def test_own_components_are_named_not_copied(exported, tiny_captioner):
    photos = tiny_captioner[2]
    with pytest.raises(UserError, match=r"\(TinyEncoder\)"):
        CaptionInferencer.from_pretrained(exported[0], device="cpu")(photos)
    with pytest.raises(UserError, match=r"\(TinyTagger\)"):
        CaptionInferencer.from_pretrained(exported[0], device="cpu", encoder={"type": "TinyEncoder"})(photos)
    with pytest.raises(UserError, match="'other'"):
        wrong = {**components(), "encoder": {"type": "TinyEncoder", "seed": 2, "name": "other"}}
        CaptionInferencer.from_pretrained(exported[0], device="cpu", **wrong)(photos)


@pytest.mark.parametrize("kind", ["MomentMatching", "DiffusionBridge"])
def test_stores_that_necks_name_are_not_needed(kind, tiny_captioner, tiny_stores, tmp_path):
    config = copy.deepcopy(tiny_captioner[0])
    moments = {"type": kind, "store": tiny_stores[0]}
    config["model"]["necks"] = {"moments": moments, **config["model"]["necks"]}
    model = MODELS.build(copy.deepcopy(config["model"]))
    model.necks[0].load_moments()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    manifest = export_captioner(copy.deepcopy(config), tmp_path / "c.pth", tmp_path / "out", samples=2)
    assert manifest["compared"]["same_captions"] == manifest["compared"]["images"] == 2
    assert tiny_stores[0] not in (tmp_path / "out" / "config.json").read_text()
    (again, _) = CaptionInferencer(tmp_path / "out", device="cpu").model.necks[:2]
    assert torch.equal(again.moments, model.necks[0].moments) and again.store is None


def test_a_second_memory_is_refused(tiny_captioner, tmp_path):
    config = copy.deepcopy(tiny_captioner[0])
    second = {"type": "RetrievalFusion", "heads": 4, "split": None}
    config["model"]["necks"] = {"second": second, **config["model"]["necks"]}
    torch.save({"state_dict": MODELS.build(copy.deepcopy(config["model"])).state_dict()}, tmp_path / "d.pth")
    with pytest.raises(UserError, match="split"):
        export_captioner(config, tmp_path / "d.pth", tmp_path / "two")


def test_a_ranker_takes_its_scores_and_the_memory_along(tiny_captioner, tmp_path):
    config, photos = copy.deepcopy(tiny_captioner[0]), tiny_captioner[2]
    config["model"]["necks"].pop("memory")  # the ranker alone remembers captions
    checkpoint = tmp_path / "c.pth"
    torch.save({"state_dict": MODELS.build(copy.deepcopy(config["model"])).state_dict()}, checkpoint)
    scores = {
        "image": {"type": "ImageScore", "weight": 2.0},
        "likelihood": {"type": "LikelihoodScore"},
        "consensus": {"type": "ConsensusScore", "k": 5, "temperature": 0.07},
    }
    config["model"]["rerank"] = {"type": "CaptionRanker", "retrieved": 2, "scores": scores}
    wanted = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")(photos)["predictions"]
    manifest = export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "out")
    assert manifest["memory"]["rows"] > 0
    again = CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu", **components())
    assert again(photos)["predictions"] == wanted
    assert again.model.ranker.scores["image"].weight == 2.0 and again.model.ranker.retrieves == 5


def test_it_appears_whole_or_not_at_all(tiny_captioner, tmp_path, monkeypatch):
    config, checkpoint, _ = tiny_captioner
    monkeypatch.setattr(export_module, "model_card", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there"):
        export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "there")


# ---- a second encoder
def test_a_captioner_of_two_encoders_captions_as_before(two_encoder_captioner, tmp_path):
    config, checkpoint, photos = two_encoder_captioner
    wanted = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")(photos, explain=True)["predictions"]
    manifest = export_captioner(copy.deepcopy(config), checkpoint, tmp_path / "out")
    assert manifest["compared"]["same_captions"] == manifest["compared"]["images"] > 0
    assert {*manifest["left_out"]} == {"encoder", "other_encoders", "tag_provider"}
    with pytest.raises(UserError, match=r"encoder 'search' \(TinyEncoder\) is not in the folder.*search=dict\("):
        CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu", **components())(photos)
    again = CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu", **components(), other_encoders=SEARCH)
    assert again(photos, explain=True)["predictions"] == wanted
    wrong = {"search": {"type": "TinyEncoder", "dim": 24, "name": "wrong"}}
    with pytest.raises(UserError, match="'wrong'"):
        CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu", **components(), other_encoders=wrong)(photos)
    rewrite(tmp_path / "out", "export.json", lambda m: m["other_encoders"]["search"].update(text=[1.0], image=[1.0]))
    with pytest.raises(UserError, match="not the features"):
        CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu")


def test_a_second_encoder_with_its_files_is_in_the_folder(tiny_captioner, tiny_synthesis, tmp_path):
    clip = {"type": "OpenCLIPBackbone", "quick_gelu": True, **tiny_clip.write(tmp_path / "clip")}
    make(tiny_synthesis, other_encoders={"search": clip})
    config, checkpoint = train_on_two(
        copy.deepcopy(tiny_captioner[0]), tiny_synthesis["store"], {"search": clip}, tmp_path, steps=10
    )
    photos = tiny_captioner[2]
    wanted = CaptionInferencer(copy.deepcopy(config), checkpoint, device="cpu")(photos, explain=True)["predictions"]
    manifest = export_captioner(config, checkpoint, tmp_path / "out")
    shutil.rmtree(tmp_path / "clip")
    assert {*manifest["left_out"]} == {"encoder", "tag_provider"}
    assert {name for name in manifest["files"] if name.startswith("other_encoders/")} == {
        f"other_encoders/search/{name}" for name in ("weights.safetensors", "model.json", "bpe.txt.gz")
    }
    again = CaptionInferencer.from_pretrained(tmp_path / "out", device="cpu", **components())
    assert again(photos, explain=True)["predictions"] == wanted
    assert (
        "- encoder 'search': tiny/weights.safetensors; its weights are in this folder\n"
        in (tmp_path / "out/README.md").read_text()
    )


# ---- what is refused
@pytest.fixture()
def copied(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_an_export_of_a_newer_version_is_refused(copied):
    rewrite(copied, "export.json", lambda m: m.update(schema_version=EXPORT_SCHEMA + 1, synthcap_mm="9.1"))
    with pytest.raises(UserError, match=f"schema {EXPORT_SCHEMA + 1}"):
        CaptionInferencer.from_pretrained(copied)


def test_no_export_and_damaged_ones_are_said(copied, tmp_path):
    with pytest.raises(UserError, match=r"no export\.json"):
        CaptionInferencer.from_pretrained(tmp_path)
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        read_export(copied)
    (copied / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        read_export(copied)
    (copied / "export.json").write_text("{")
    with pytest.raises(UserError, match=r"export\.json, line 1"):
        read_export(copied)
    with pytest.raises(UserError, match=r"a\.pth"):
        CaptionInferencer(copied, "a.pth")


def test_what_is_not_listed_is_not_opened_and_what_is_needed_must_be(copied):
    (copied / "notes.py").write_text("raise SystemExit('executed')")
    read_export(copied)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "memory.safetensors", "memory.txt"):
        before = (copied / "export.json").read_text()
        rewrite(copied, "export.json", lambda m, name=name: m["files"].pop(name))
        with pytest.raises(UserError, match=name):
            CaptionInferencer.from_pretrained(copied, device="cpu")
        (copied / "export.json").write_text(before)


@pytest.mark.parametrize("name", ["../a.json", "/etc/a.json", "x.py", "a/../b.json", ".hidden/a.json", "a\\b.json"])
def test_names_of_files_that_are_not_data_in_the_folder(copied, name):
    rewrite(copied, "export.json", lambda m: m["files"].update({name: m["files"]["memory.txt"]}))
    with pytest.raises(UserError, match="lists"):
        read_export(copied)


def test_a_tokenizer_with_a_pattern_of_its_own_is_refused(copied):
    """`(a+)+$` takes longer than anybody waits."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
    rewrite(copied, "tokenizer.json", lambda t: t.update(pre_tokenizer=split))
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        CaptionInferencer(copied)


def test_links_are_refused(copied, tmp_path):
    (copied / "memory.txt").rename(tmp_path / "memory.txt")
    (copied / "memory.txt").symlink_to(tmp_path / "memory.txt")
    with pytest.raises(UserError, match="link"):
        read_export(copied)


def test_parts_that_do_not_fit_each_other(copied):
    rewrite(copied, "config.json", lambda c: c["model"]["head"].update(layers=900, width=4096))
    with pytest.raises(UserError, match="more weights"):
        CaptionInferencer.from_pretrained(copied, device="cpu")
    rewrite(copied, "config.json", lambda c: c["model"]["head"].update(layers=1, width=32))
    with pytest.raises(UserError, match="fit"):
        CaptionInferencer.from_pretrained(copied, device="cpu")


def test_the_manifest_itself_is_no_link(copied, tmp_path):
    (copied / "export.json").rename(tmp_path / "elsewhere.json")
    (copied / "export.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError):
        read_export(copied)


@pytest.mark.parametrize("name, value", [("positions", 60_000), ("generation", {"min_new_tokens": 5_000})])
def test_captions_of_an_export_are_bounded(copied, name, value):
    rewrite(copied, "config.json", lambda c: c["model"]["head"].update({name: value}))
    with pytest.raises(UserError, match="at most"):
        read_export(copied)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d["model_cfg"]["text_cfg"].update(vocab_size=4_000_000, width=4096), "larger than its weights"),
        (lambda d: d["model_cfg"]["text_cfg"].update(hf_model_name="roberta-base"), "hf_model_name"),
        (lambda d: d["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}), "tokenizer_kwargs"),
        (lambda d: d["model_cfg"]["vision_cfg"].update(timm_model_name="hf-hub:evil/x"), "timm_model_name"),
        (lambda d: d.pop("model_cfg"), "vision_cfg"),  # open_clip's own of that name might ask a hub
    ],
)
def test_what_an_encoder_of_an_export_may_not_be(full_export, tmp_path, change, words):
    shutil.copytree(full_export, tmp_path / "copy")
    rewrite(tmp_path / "copy", "encoder/model.json", change)
    with pytest.raises(UserError, match=words):
        read_export(tmp_path / "copy")


@pytest.mark.mmdet
@pytest.mark.parametrize(
    "config",
    [
        "ld/ld_r18-gflv1-r101_fpn_1x_coco",
        "glip/glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco",
        "timm_example/retinanet_timm-efficientnet-b1_fpn_1x_coco",
    ],
)
def test_detectors_that_load_more_than_their_weights_are_not_for_exports(copied, config):
    pytest.importorskip("mmdet", reason="MMDET ABSENT")
    detector = {
        "type": "MMDetTagProvider",
        "config": config,
        "checkpoint": {"$file": "model.safetensors"},
        "classes": ["a"],
    }
    rewrite(copied, "config.json", lambda c: c.update(tag_provider=detector))
    with pytest.raises(UserError, match="loads more"):
        read_export(copied)


def test_a_component_of_the_users_own_says_what_may_stand_in_an_export(copied, tiny):
    def name(encoder):
        rewrite(copied, "config.json", lambda c: c.update(encoder=encoder))

    name({"type": "NobodysEncoder"})
    with pytest.raises(UserError, match="NobodysEncoder"):
        read_export(copied)
    name({"type": "TinyEncoder", "seed": 1})
    with pytest.raises(UserError, match="exportable"):
        read_export(copied)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODELS.get("TinyEncoder"), "exportable", data("seed"), raising=False)
        assert read_export(copied).encoder == {"type": "TinyEncoder", "seed": 1}
        name({"type": "TinyEncoder", "name": "other"})
        with pytest.raises(UserError, match="name"):
            read_export(copied)


# ---- encoders and detectors
def test_an_encoder_that_also_tags_is_once_in_the_folder(full_export):
    config = json.loads((full_export / "config.json").read_text())
    assert config["encoder"]["type"] == "OpenCLIPBackbone" and "encoder" not in config["tag_provider"]
    assert config["tag_provider"]["vocabulary"] == ["dog", "cat", "red"]
    assert len(list(full_export.rglob("weights.safetensors"))) == 1
    assert "synthcap-mm caption export photos/ --out captions.jsonl\n" in (full_export / "README.md").read_text()


def test_an_encoder_from_files_is_in_the_folder(tiny_captioner, tiny_stores, tmp_path):
    """The memory was made by another encoder; only whether this one comes back the same is looked at."""
    config = copy.deepcopy(tiny_captioner[0])
    config["synthesis"].pop("tag_provider")
    files = tiny_clip.write(tmp_path / "clip")
    config["synthesis"]["encoder"] = {"type": "OpenCLIPBackbone", "quick_gelu": True, **files}
    original = MODELS.build(copy.deepcopy(config["synthesis"]["encoder"]))
    folder = tmp_path / "out"
    folder.mkdir()
    written = export_parts.export_open_clip(original, config["synthesis"]["encoder"], folder)
    assert written["pretrained"] == {"$file": "encoder/weights.safetensors"}
    assert json.loads(json.dumps(written)) == written and "/tmp" not in json.dumps(written)
    paths = {k: str(folder / v["$file"]) if isinstance(v, dict) else v for k, v in written.items()}
    assert json.loads((folder / "encoder" / "model.json").read_text())["model_cfg"]["embed_dim"] == 16
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
    written = export_parts.export_detector(settings, tmp_path)
    again = MODELS.build({**written, "checkpoint": str(tmp_path / written["checkpoint"]["$file"])})
    photos = [Image.open(p) for p in sorted((real_data / "coco_mini" / "val2017").glob("*.jpg"))[:2]]
    assert again.detect(photos) == MODELS.build(settings).detect(photos)


@pytest.mark.mmdet
def test_a_detectors_own_config_is_not_exported(tmp_path):
    pytest.importorskip("mmdet", reason="MMDET ABSENT")
    (tmp_path / "mine.py").write_text("model = dict()")
    settings = {"type": "MMDetTagProvider", "config": str(tmp_path / "mine.py"), "checkpoint": "x.pth"}
    with pytest.raises(UserError, match=r"mine\.py"):
        export_parts.export_detector(settings, tmp_path)


def test_tags_by_the_captioners_encoder_name_no_other(full_export):
    tags = json.loads((full_export / "config.json").read_text())["tag_provider"]
    assert tags == {"type": "CLIPTagProvider", "vocabulary": ["dog", "cat", "red"], "min_score": 0.0}
    again = CaptionInferencer.from_pretrained(full_export, device="cpu")
    assert again.reader.tag_provider.encoder is again.model.backbone
