"""The flagship goes through synthesize, train and test as it is; the full-scale configs name their data.

No ``type`` of a config is changed here: only sizes, counts, paths and dtype.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import tiny_detector
import tiny_diffusion
import torch
from command_line import run_command
from mmengine.config import Config
from PIL import Image
from small_configs import WIDTH

from synthcap_mm import missing_inputs
from synthcap_mm.config_reading import read_config
from synthcap_mm.engine.runners import build_runner

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = ["a red dog on the house", "the cat on a house", "a red house", "the dog on the red cat"]
SMALL_MODEL = [
    "model.head.width=32", "model.head.layers=2", "model.head.heads=2", "model.head.generation.num_beams=2",
    "optim_wrapper.dtype=float32", "train_cfg.max_epochs=1",
    "train_dataloader.batch_size=8", "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False", "default_hooks.logger.interval=1",
    "model.data_preprocessor.max_length=20", "synthesis.holdout=0.25", "synthesis.shard_size=6", "synthesis.image_batch=4",
]  # fmt: skip


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8))


def karpathy(folder):
    """Karpathy's json and its photos: 8 to train on, 2 of them 'restval', 1 val, 3 test."""
    splits = ["train"] * 6 + ["restval"] * 2 + ["val"] + ["test"] * 3
    images = []
    for i, split in enumerate(splits):
        (folder / "val2014").mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / "val2014" / f"{i}.jpg")
        sentences = [{"raw": SENTENCES[(i + j) % 4], "sentid": 2 * i + j, "imgid": i} for j in range(2)]
        image = {"filepath": "val2014", "filename": f"{i}.jpg", "imgid": i, "split": split, "cocoid": i}
        images.append({**image, "sentences": sentences})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return str(folder / "dataset_coco.json")


@pytest.mark.mmdet
@pytest.mark.slow
def test_the_flagship_config_from_captions_to_metrics(tmp_path):
    pytest.importorskip("mmdet")
    pytest.importorskip("diffusers")
    annotations = karpathy(tmp_path / "coco")
    clip = tiny_clip.write(tmp_path / "clip")
    detector = tiny_detector.write(tmp_path / "detector")
    pipeline = tiny_diffusion.write(tmp_path / "sd", scheduler="PNDMScheduler", skip_prk_steps=True)
    options = [
        *SMALL_MODEL,
        f"synthesis.captions.path={annotations}", f"photo_stores.0.photos.ann_file={annotations}",
        f"photo_stores.0.photos.image_root={tmp_path / 'coco'}",
        *(f"synthesis.encoder.{k}={v}" for k, v in clip.items() if k != "model_name"),
        *(f"synthesis.tag_provider.{k}={v}" for k, v in detector.items()),
        f"synthesis.generator.model={pipeline}", "synthesis.generator.dtype=float32", "synthesis.generator.steps=4",
        "synthesis.generator.height=16", "synthesis.generator.width=16", "test_dataloader.num_workers=0",
    ]  # fmt: skip
    said = run_command(tmp_path, "synthesize", "synthcap_coco.py", "--cfg-options", *options)
    assert "16 captions, 16 images" in said
    run_command(tmp_path, "encode-images", "synthcap_coco.py", "--cfg-options", *options)
    said = run_command(tmp_path, "train", "synthcap_coco.py", "--cfg-options", *options)
    assert "Epoch(train) [1]" in said and "CIDEr" in said
    best = next((tmp_path / "work_dirs" / "synthcap_coco").glob("best_CIDEr*.pth"))
    said = run_command(tmp_path, "test", "synthcap_coco.py", best, "--cfg-options", *options)
    assert "test metrics" in said
    metrics = json.loads((tmp_path / "work_dirs" / "synthcap_coco" / "test_metrics.json").read_text())["metrics"]
    assert {"BLEU-4", "ROUGE_L", "CIDEr"} <= set(metrics)
    # Another encoder needs the pictures, which were not kept.
    other = tiny_clip.write(tmp_path / "other", seed=1)
    options = [o.replace(clip["pretrained"], other["pretrained"]) for o in options]
    said = run_command(tmp_path, "synthesize", "synthcap_coco.py", "--cfg-options", *options, status=1)
    assert "encoder.pretrained" in said and "--redraw" in said


@pytest.mark.parametrize(
    ("name", "trained_on", "tested_on"),
    [
        ("synthcap_flickr30k.py", "data/flickr30k/", "data/flickr30k/"),
        ("synthcap_nocaps.py", "data/coco/", "data/nocaps/"),
        ("synthcap/synthcap_coco-to-flickr30k.py", "data/coco/", "data/flickr30k/"),
        ("synthcap/synthcap_flickr30k-to-coco.py", "data/flickr30k/", "data/coco/"),
        ("synthcap/synthcap_vit-l14_coco.py", "data/coco/", "data/coco/"),
        ("synthcap/synthcap_vit-l14_flickr30k.py", "data/flickr30k/", "data/flickr30k/"),
        ("synthcap/synthcap_vit-l14_nocaps.py", "data/coco/", "data/nocaps/"),
        ("synthcap/synthcap_vit-l14_coco-to-flickr30k.py", "data/coco/", "data/flickr30k/"),
        ("synthcap/synthcap_vit-l14_flickr30k-to-coco.py", "data/flickr30k/", "data/coco/"),
    ],
)
def test_dataset_bases_name_their_data_everywhere(name, trained_on, tested_on):
    cfg = Config.fromfile(ROOT / "configs" / name)
    stores = {cfg.model.store, cfg.synthesis.store, *(cfg[f"{s}_dataloader"].dataset.store for s in ("train", "val"))}
    assert len(stores) == 1 and stores.pop().startswith(trained_on)
    assert cfg.synthesis.captions.path.startswith(trained_on)
    (entry,) = cfg.photo_stores
    assert entry.store == cfg.test_dataloader.dataset.store and entry.store.startswith(tested_on)
    assert entry.photos.ann_file.startswith(tested_on) and f"{entry.photos.image_root}/".startswith(tested_on)
    assert entry.store != entry.photos.image_root  # the store must not be among the photos
    missing = " ".join(missing_inputs.missing_inputs(cfg, "photo_stores"))
    assert entry.photos.ann_file in missing and "tools/prepare_data.py" in missing
    # Features of the two encoders are never in one store; a set's name says whose photos they are.
    large = "vit-l14" in name
    sets = cfg.get("test_sets", [])
    stores = {cfg.model.store, entry.store, *(s.store for s in sets)}
    assert {s.endswith("_vit-l14") for s in stores} == {large}
    assert cfg.synthesis.encoder.model_name == f"ViT-{'L-14' if large else 'B-32'}-quickgelu"
    assert cfg.synthesis.encoder.pretrained == "openai"
    assert all(s.store.startswith(f"data/{s.name.split()[0]}/") for s in sets)
    # TT: the target's captions, none of which the captioner has learned from.
    for tt in (s for s in sets if s.name.endswith(" TT")):
        assert tt.memory.path.startswith(f"data/{tt.name[:-3]}/") and tt.memory.path != cfg.synthesis.captions.path
        assert tt.memory.split == "train"
    if "-to-" in name:
        assert [s.name for s in sets] == [tested_on.split("/")[1], tested_on.split("/")[1] + " TT"]
        assert {s.store for s in sets} == {entry.store}
        assert sets[1].memory.path in " ".join(missing_inputs.missing_inputs(cfg, "test_sets"))


def test_flickr30k_and_nocaps_are_read_where_prepare_data_puts_them(tmp_path, monkeypatch):
    from synthcap_mm.datasets.preparation import RECIPES, prepare
    from synthcap_mm.registry import DATASETS

    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for n in range(3):
        picture(n).save(downloads / f"{n}.jpg")
    images = [
        {"imgid": n, "filename": f"{n}.jpg", "split": s, "sentences": [{"raw": "a dog", "sentid": n}]}
        for n, s in enumerate(["train", "val", "test"])
    ]
    (downloads / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    images = [{"id": 0, "open_images_id": "0", "file_name": "0.jpg", "domain": "in-domain"}]
    annotations = [{"id": 0, "image_id": 0, "caption": "a dog"}]
    (downloads / "nocaps_val_4500_captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    one = dict.fromkeys(("train", "val", "test"), 1)
    recipes = {
        "flickr30k": RECIPES["flickr30k"]._replace(images=one, captions=one),
        "nocaps": RECIPES["nocaps"]._replace(images={"in-domain": 1}, captions={"in-domain": 1}),
    }
    prepare(["flickr30k", "nocaps"], tmp_path / "data", [downloads], recipes=recipes)
    monkeypatch.chdir(tmp_path)
    for name in ("synthcap_flickr30k.py", "synthcap_nocaps.py"):
        photos = DATASETS.build(Config.fromfile(ROOT / "configs" / name).photo_stores[0].photos)
        assert len(photos) == 1 and photos.references(0) == ["a dog"] and photos.load(0).mode == "RGB"


def test_the_flagship_lists_all_that_is_missing_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(missing_inputs._MISSING, "hub", lambda repository: True)  # not asked, over no network
    said = run_command(tmp_path, "train", "synthcap_coco.py", status=1)
    for thing in (
        "tools/synthesize.py",
        "tools/encode_images.py",
        "dataset_coco.json",
        "detr_r50_8xb2-150e_coco",
        "vit_base_patch32_clip_224.openai",
        "stable-diffusion-v1-5",
        "cocodataset.org",
    ):
        assert thing in said, said


@pytest.mark.parametrize(
    "name, repository",
    [("sync/sync_coco.py", "timm/ViT-B-16-SigLIP2-256"), ("ifcap/ifcap_coco.py", "timm/resnet50x64_clip.openai")],
)
def test_the_weights_of_a_second_encoder_are_among_what_is_missing(name, repository, monkeypatch):
    monkeypatch.setitem(missing_inputs._MISSING, "hub", lambda asked: asked == repository)
    cfg = read_config(name)
    for stage in ("synthesis", "photo_stores"):
        found = [line for line in missing_inputs.missing_inputs(cfg, stage) if line.startswith(f"{repository}: ")]
        assert len(found) == 1 and "synthesis.other_encoders." in found[0]


def test_photos_are_missing_even_where_the_annotations_made_their_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(missing_inputs._MISSING, "hub", lambda repository: True)
    annotations = tmp_path / "data" / "coco" / "annotations" / "dataset_coco.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text("{}")
    said = run_command(tmp_path, "encode-images", "synthcap_coco.py", status=1)
    assert "data/coco/val2014: " in said and "cocodataset.org" in said and "caption_datasets.zip" not in said


@pytest.mark.parametrize("captions", [500, 5000])
def test_the_custom_config_is_warm_after_its_first_epoch(captions):
    from mmengine.optim import LinearLR

    cfg = Config.fromfile(ROOT / "configs" / "synthcap_custom.py")
    length = -(-captions * 98 // 100 // cfg.train_dataloader.batch_size)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    steps = length * cfg.train_cfg.max_epochs
    warm_up, decay = map(dict, cfg.param_scheduler)
    assert warm_up.pop("type") == decay.pop("type") == "LinearLR" and warm_up.pop("convert_to_iter_based")
    schedulers.append(LinearLR.build_iter_from_epoch(optimizer, epoch_length=length, **warm_up))
    schedulers.append(LinearLR(optimizer, **{"end": steps, **decay}))  # as MMEngine fills it in
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    full = cfg.optim_wrapper.optimizer.lr
    assert rates[0] <= 0.2 * full and max(rates[: length + 1]) > 0.9 * full
    assert rates[-1] < 0.02 * full


def test_the_custom_config_has_tags_with_a_vocabulary_only():
    plain, named = read_config("synthcap_custom.py"), read_config("synthcap_custom.py", ["vocabulary=mine.txt"])
    assert plain.synthesis.tag_provider is None and plain.model.data_preprocessor.prompt is None
    assert named.synthesis.tag_provider == {"type": "CLIPTagProvider", "vocabulary": "mine.txt", "min_cosine": 0.24}
    assert named.model.data_preprocessor.prompt.max_tags == 3


def test_a_config_that_derives_from_the_custom_one_may_add_a_test_set(tmp_path, stores):
    pairs, photos = stores(WIDTH)
    (tmp_path / "mine.py").write_text(
        f"_base_ = [{str(ROOT / 'configs' / 'synthcap_custom.py')!r}]\nstore = {pairs!r}\n"
        f"test_dataloader = dict(batch_size=5, dataset=dict(type='CaptionEvalDataset', store={photos!r}))\n"
        "test_evaluator = dict(type='CaptionMetric')\n"
    )
    small = ["model.head.width=32", "model.head.layers=1", f"work_dir={tmp_path / 'work'}", "log_level=ERROR"]
    for config, tests in ((tmp_path / "mine.py", True), ("synthcap_custom.py", False)):
        cfg = read_config(config, [*small, f"store={pairs}", f"experiment_name=adds_{tests}"])
        runner = build_runner(cfg)
        assert (runner._test_loop is not None) == tests
    runner = build_runner(read_config(tmp_path / "mine.py", [*small, "experiment_name=tests"]), to_test=True)
    assert len(runner.test_loop.dataloader.dataset) > 0 and runner.val_loop is not None


@pytest.mark.slow
def test_the_custom_config_needs_two_lines_edited(tmp_path):
    """Their text and their photos; here also a small CLIP's files in place of the download."""
    text = (ROOT / "configs" / "synthcap_custom.py").read_text()
    clip = tiny_clip.write(tmp_path / "clip")
    (tmp_path / "photos").mkdir()
    for i in range(6):
        picture(i).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "my.txt").write_text("\n".join(f"{s} number {i}" for i in range(6) for s in SENTENCES))
    assert 'captions = "my.txt"' in text and 'images = "photos/"' in text
    options = [
        *SMALL_MODEL,
        *(f"synthesis.encoder.{k}={v}" for k, v in clip.items() if k != "model_name"),
    ]  # fmt: skip
    said = run_command(tmp_path, "synthesize", "synthcap_custom.py", "--cfg-options", *options)
    assert "24 captions, 6 images" in said
    said = run_command(tmp_path, "train", "synthcap_custom.py", "--cfg-options", *options)
    assert "Epoch(train) [1]" in said and "CIDEr" in said
    # With names of the domain the encoder tags, and the tags are told.
    (tmp_path / "names.txt").write_text("dog\ncat\nhouse\n")
    options += ["vocabulary=names.txt", "store=tagged", "synthesis.tag_provider.min_cosine=-1"]
    run_command(tmp_path, "synthesize", "synthcap_custom.py", "--cfg-options", *options)
    from synthcap_mm.store import Store

    assert {tag.name for row in range(6) for tag in Store.open(tmp_path / "tagged").tags(row)} <= {
        "dog",
        "cat",
        "house",
    }
    said = run_command(tmp_path, "train", "synthcap_custom.py", "--cfg-options", *options)
    assert "Epoch(train) [1]" in said
