"""The benchmark on real photos: configs, what is trained on, scoring; and, where the data is, a run in small."""

import csv
import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from synthcap_mm.registry import MODELS
from synthcap_mm.structures import CaptionSample, Tag

REAL = Path(__file__).resolve().parents[2] / "benchmarks" / "real"


@pytest.fixture()
def module(monkeypatch):
    """Imports a module of benchmarks/real by name."""
    monkeypatch.syspath_prepend(str(REAL))
    return importlib.import_module


@pytest.fixture()
def config(monkeypatch, tmp_path):
    """Reads a config of the benchmark with data root and work folder set."""
    monkeypatch.setenv("SYNTHCAP_REAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SYNTHCAP_REAL_WORK", str(tmp_path / "out"))

    def read(name):
        return Config.fromfile(REAL / "configs" / f"{name}.py", import_custom_modules=False)

    return read


# ---- configs
@pytest.mark.parametrize("name", ["synthcap", "capdec", "decap"])
def test_configs_parse_and_take_their_folders_from_the_environment(config, tmp_path, name):
    cfg = config(name)
    assert cfg.synthesis.captions.path == f"{tmp_path}/out/captions.json"
    assert cfg.synthesis.encoder.root == f"{tmp_path}/data/dual_encoder"
    stores = {cfg.store, cfg.model.store, cfg.synthesis.store, cfg.train_dataloader.dataset.store}
    assert stores == {f"{tmp_path}/out/pairs"}


def test_methods_differ_in_their_necks_and_in_what_the_method_says_only(config):
    cfgs = {name: config(name).to_dict() for name in ("synthcap", "capdec", "decap")}
    necks = {name: [(n["type"], n.get("phases")) for n in cfg["model"].pop("necks")] for name, cfg in cfgs.items()}
    assert necks["capdec"] == [("TextAsPrefix", None), ("NoiseInjection", None), ("PrefixProjector", None)]
    assert necks["decap"] == [
        ("TextAsPrefix", None),
        ("TextMemoryProjection", ["predict"]),
        ("PrefixProjector", None),
    ]
    assert ("TextMemoryProjection", None) in necks["synthcap"]
    assert cfgs["capdec"] == cfgs["decap"]
    # SynTIC learns from images and has tags; the rest is shared.
    assert cfgs["synthcap"]["model"]["data_preprocessor"].pop("prompt")
    assert cfgs["synthcap"]["train_dataloader"]["dataset"].pop("pairs") == "default"
    for name in ("refined", "image_choice"):
        cfgs["synthcap"]["train_dataloader"]["dataset"].pop(name, None)
    cfgs["decap"]["train_dataloader"]["dataset"].pop("pairs")
    assert cfgs["synthcap"] == cfgs["decap"]


def test_every_variant_changes_a_setting_that_is_there(config, module):
    methods = module("methods")
    for name, method in {**methods.METHODS, **methods.VARIANTS}.items():
        plain, changed = config(method.config), config(method.config)
        changed.merge_from_dict(dict(method.options))
        assert (plain.to_dict() != changed.to_dict()) == bool(method.options), name
        assert {n["type"] for n in changed.model.necks} <= {
            "PseudoFeatureOptimizer",
            "TextAsPrefix",
            "NoiseInjection",
            "TextFeatureMix",
            "TextMemoryProjection",
            "PrefixProjector",
        }
        for neck in changed.model.necks:
            MODELS.build(neck)


# ---- captions
def write_root(root):
    """A data root in small: COCO photos 1 to 4 and Flickr8k photos 11 to 13."""
    (root / "captions").mkdir(parents=True)
    (root / "coco_mini/annotations").mkdir(parents=True)
    (root / "coco_val2017_extra").mkdir()
    (root / "flickr8k").mkdir()

    def image(n, flickr):
        return {"id": n, "file_name": f"{n:03}.jpg", "flickr_url": f"http://x/1/{flickr}_0a1b_z.jpg"}

    images = [image(1, 101), image(2, 102), image(3, 103), image(4, 11)]
    captions = [{"id": n, "image_id": n, "caption": f"photo {n} of coco."} for n in (1, 2, 3, 4)]
    (root / "captions/coco_captions_val2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (root / "coco_mini/annotations/captions_val2017.json").write_text(json.dumps({"images": images[:1]}))
    (root / "coco_mini/annotations/captions_train2017.json").write_text(json.dumps({"images": [image(9, 103)]}))
    (root / "coco_val2017_extra/002.jpg").write_bytes(b"")
    names = ["11_ab.jpg", "12_cd.jpg", "13_ef.jpg"]
    with open(root / "captions/flickr8k_captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "caption"], *([n, f"photo {n[:2]} of flickr ."] for n in names), [names[2], "A"]]
        )
    (root / "flickr8k/splits.json").write_text(json.dumps({"unlabelled": ["11_ab.jpg"], "dev": ["12_cd.jpg"]}))


def test_captions_of_evaluated_and_pooled_photos_are_left_out(module, tmp_path):
    write_root(tmp_path)
    captions, report = module("prepare").training_captions(tmp_path)
    # 1 is evaluated, 2 in the pool, 3 and 4 are pool photos under other names; 11 is in the pool, 12 evaluated.
    assert [c["caption"] for c in captions] == ["photo 13 of flickr"]
    assert report["captions_left_out"] == {"named": 4, "same_flickr_photo": 2, "too_short": 1}


def test_a_wrong_data_root_is_told_what_it_lacks(module, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks: .*coco_captions_val2017\.json, .*splits\.json"):
        module("prepare").training_captions(tmp_path)


# ---- scoring
def test_scores_intervals_and_tables(module):
    scoring = module("scoring")
    references = {
        "a": {"1": ["a dog runs on grass", "the dog runs"], "2": ["a red car", "a car on a street"]},
        "b": {"3": ["two boats on water", "boats at sea"], "4": ["a man in a hat", "man with a hat"]},
    }
    good = {name: {key: texts[0] for key, texts in part.items()} for name, part in references.items()}
    bad = {name: dict.fromkeys(part, "a plane in the sky") for name, part in references.items()}
    right, wrong = scoring.score_sets(good, references), scoring.score_sets(bad, references)
    assert set(right) == {"a", "b", "both"} and set(right["both"]["per_image"]) == {"1", "2", "3", "4"}
    assert right["both"]["metrics"]["CIDEr"] > 100 > wrong["both"]["metrics"]["CIDEr"]
    found = scoring.compare([right, right], [wrong])
    assert found["both"]["low"] > 0 and found["both"]["images"] == 4
    text = scoring.markdown(
        {
            "sets": {"a": 2, "b": 2, "both": 4},
            "methods": {"x": {"title": "X", "runs": [{"scores": right, "heldout_CIDEr": 3.0}, {"scores": wrong}]}},
            "comparisons": {"X − Y": found},
        }
    )
    assert "| X | 2 |" in text and " ± " in text and "X − Y" in text


# ---- with the data
@pytest.mark.real
def test_encoder_is_that_of_the_data_root(module, real_data):
    module("dual_encoder_backbone")
    encoder = MODELS.build({"type": "DualEncoderBackbone", "root": str(real_data / "dual_encoder")})
    assert 1 / 0.08 < encoder.logit_scale < 1 / 0.05  # the README: temperature about 0.07
    texts = ["a dog runs over the grass", "a plate of food", "word " * 80]
    together = encoder.encode_text(texts)
    assert torch.allclose(together, torch.cat([encoder.encode_text([t]) for t in texts]), atol=1e-5)
    assert encoder.is_too_long(texts) == [False, False, True]


@pytest.mark.real
@pytest.mark.slow
def test_whole_benchmark_in_small(module, real_data, tmp_path):
    detector = [] if importlib.util.find_spec("mmdet") else ["--without-tags"]
    options = [str(real_data), "--work-dir", str(tmp_path), "--quick", "--seeds", "1", *detector]
    benchmark = module("run").main
    results = benchmark(options)
    assert set(results["methods"]) == {"synthcap", "decap", "capdec", "nearest_caption"}
    assert results["sets"] == {"coco_val2017": 6, "flickr8k_dev": 6, "both": 12}
    for entry in results["methods"].values():
        assert all(len(part) == 6 for part in entry["runs"][0]["captions"].values())
    assert (tmp_path / "quick/results.md").is_file() and (tmp_path / "quick/results.csv").is_file()
    # A second time, nothing is trained.
    weights = sorted((tmp_path / "quick").rglob("*.pth"))
    assert len(weights) == 3
    before = [file.stat().st_mtime_ns for file in weights]
    assert benchmark(options)["comparisons"] == results["comparisons"]
    assert [file.stat().st_mtime_ns for file in weights] == before


# ---- ready-made images
def write_drawn(root):
    """Two prompts, one of them drawn twice; the last is black."""
    import numpy as np
    from PIL import Image

    rows = [("a1.png", "a red car"), ("a2.png", "a red car"), ("b1.png", "a dog")]
    (root / "sd_drawbench").mkdir(parents=True)
    for n, (name, _) in enumerate(rows):
        pixels = np.random.default_rng(n).integers(0, 255, (40, 40, 3), dtype=np.uint8) * (name != "b1.png")
        Image.fromarray(pixels.astype(np.uint8)).save(root / "sd_drawbench" / name)
    lines = [json.dumps({"file_name": name, "prompt": prompt}) for name, prompt in rows]
    (root / "sd_drawbench" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root / "sd_drawbench"


def test_ready_made_images_come_by_prompt_and_seed(module, tmp_path):
    import numpy as np
    from PIL import Image

    from synthcap_mm.pairs.factory import seed_of

    module("ready_made_images")
    folder = write_drawn(tmp_path)
    generator = MODELS.build({"type": "ReadyMadeImages", "root": str(folder)})
    drawn = generator.generate(["a red car", "a dog", "a red car"], [seed_of(0, i, 0) for i in ("2", "3", "1")])
    for image, name in zip(drawn, ("a2.png", "b1.png", "a1.png")):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(folder / name)))
    assert str(tmp_path) not in json.dumps(generator.provenance()) and generator.provenance()["images"] == 3
    with pytest.raises(ValueError, match="no ready-made image for the prompt 'a cat' and seed 5: the captions must"):
        generator.generate(["a cat"], [5])
    (folder / "a1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images of .*metadata\.jsonl are missing: a1\.png"):
        MODELS.build({"type": "ReadyMadeImages", "root": str(folder)})
    (folder / "metadata.jsonl").write_text('{"prompt": "a dog"}\n')
    with pytest.raises(ValueError, match="line 1: no field 'file_name'"):
        MODELS.build({"type": "ReadyMadeImages", "root": str(folder)})


def test_drawn_pairs_are_told_and_shown(module, tmp_path, tiny, capsys):
    from PIL import Image

    from synthcap_mm.pairs import PairFactory

    module("ready_made_images")
    drawbench = module("drawbench")
    folder = write_drawn(tmp_path)
    PairFactory(
        store=str(tmp_path / "drawbench"),
        captions={"type": "CaptionFile", "path": str(folder / "metadata.jsonl")},
        encoder={"type": "TinyEncoder"},
        generator={"type": "ReadyMadeImages", "root": str(folder)},
        tag_provider={"type": "TinyTagger"},
        tokenizer=None,
        holdout=0.0,
    ).run()
    rows = drawbench.main(["--data-root", str(tmp_path), "--work-dir", str(tmp_path), "--table", "2"])
    assert [(row["file"], row["prompt"]) for row in rows][1:] == [("a2.png", "a red car"), ("b1.png", "a dog")]
    assert [row["flags"] for row in rows] == [[], [], ["black"]]
    said = capsys.readouterr().out
    assert "3 pairs; flagged: b1.png" in said and "| a1.png | a red car |" in said and "| b1.png | a dog |" in said
    assert Image.open(tmp_path / "drawbench_0.png").size == (1900, 252)


@pytest.mark.mmdet
@pytest.mark.real
def test_real_drawn_pairs_in_small(module, real_data, tmp_path):
    """Real encoder, real detector, real Stable Diffusion images; the black one is flagged, the cars are cars."""
    pytest.importorskip("mmdet")
    module("dual_encoder_backbone")
    module("ready_made_images")
    lines = (real_data / "sd_drawbench" / "metadata.jsonl").read_text().splitlines()[:4]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n")
    from synthcap_mm.pairs import PairFactory
    from synthcap_mm.stores import Store

    counts = PairFactory(
        store=str(tmp_path / "store"),
        captions={"type": "CaptionFile", "path": str(tmp_path / "some.jsonl")},
        encoder={"type": "DualEncoderBackbone", "root": str(real_data / "dual_encoder")},
        generator={"type": "ReadyMadeImages", "root": str(real_data / "sd_drawbench")},
        tag_provider={
            "type": "MMDetTagProvider",
            "config": "yolox/yolox_nano_8xb8-300e_coco.py",
            "checkpoint": str(real_data / "yolox_nano" / "yolox_nano_mmdet.pth"),
        },
        tokenizer=None,
        holdout=0.0,
    ).run()
    assert counts["images"] == 4 and counts["flagged"] == 1
    store = Store.open(tmp_path / "store")
    assert store.images.value("flags", 2) == ["black"]
    assert [store.tags(i)[0].name for i in (0, 1, 3)] == ["car"] * 3
    assert store.pairs().numbers("score")[:2] == pytest.approx([0.70, 0.70], abs=0.02)


# ---- why methods differ
def test_tags_are_held_against_captions(module):
    diagnose = module("diagnose")
    assert diagnose.mentions("person", "Two girls run") and diagnose.mentions("bus", "red buses")
    assert not diagnose.mentions("person", "a manly dog") and not diagnose.mentions("cat", "a catalogue")
    tags = [Tag("person", 0.9), Tag("kite", 0.8), Tag("dog", 0.1)]
    sample = CaptionSample(0, "a", tags=tags, references=["a man", "a dog"])
    found = diagnose.agreement(diagnose.TagPrompt(), [sample], [sample.references])
    assert found == {"tags": 2, "named": 0.5, "objects named": 0.0}
    assert [tag.name for tag in diagnose.right_only(sample).tags] == ["person", "dog"]
    assert sample.tags == tags
