import builtins
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_detector
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from tiny_detector import CLASSES, CONFIG

from synthcap_mm.errors import UserError
from synthcap_mm.models.tag_providers import MMDetTagProvider
from synthcap_mm.models.tag_providers.mmdet_tag_provider import find_config, mmdet_scope
from synthcap_mm.registry import MODELS
from synthcap_mm.store.recipes import component_recipe


# The tiny detector's pipeline keeps the picture's shape: pictures of different shapes reach it in different sizes.
def pictures():
    rng = np.random.default_rng(0)
    sizes = [(48, 32), (32, 48), (48, 32), (90, 40), (30, 30), (32, 48)]
    blocks = [rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in sizes]
    return [Image.fromarray(block).resize(size, Image.NEAREST) for block, size in zip(blocks, sizes)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    pytest.importorskip("mmdet")
    return tiny_detector.write(tmp_path_factory.mktemp("detector"))


def mmdets_own(config, checkpoint, images, pipeline=None):
    """Detections of mmdet's own functions, one picture at a time."""
    from mmdet.apis import inference_detector, init_detector

    with mmdet_scope():
        model = init_detector(str(config), checkpoint, device="cpu")
        arrays = [np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]) for image in images]
        results = [inference_detector(model, array, test_pipeline=pipeline).pred_instances for array in arrays]
    return model.dataset_meta["classes"], results


def assert_same_detections(found, classes, instances, size, min_score=0.05, max_tags=20):
    keep = instances.scores > min_score
    scores, order = instances.scores[keep].sort(descending=True, stable=True)
    labels, boxes = instances.labels[keep][order][:max_tags], instances.bboxes[keep][order][:max_tags]
    assert len(found) == len(labels)
    assert [tag.name for tag in found] == [classes[label] for label in labels]
    np.testing.assert_allclose([tag.score for tag in found], scores[:max_tags], atol=1e-5)
    for tag, box in zip(found, boxes.tolist()):
        limits = (*size, *size)
        clipped = [min(max(value, 0), limit) for value, limit in zip(box, limits)]
        np.testing.assert_allclose(tag.box, clipped, atol=1e-2)
        share = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) / (size[0] * size[1])
        assert tag.area == pytest.approx(share, abs=1e-3) and 0 <= tag.area <= 1


@pytest.mark.mmdet
@pytest.mark.parametrize("batch_size", [1, 4])
def test_same_detections_as_mmdets_own_inference(tiny, batch_size):
    images = pictures()
    found = MMDetTagProvider(**tiny, batch_size=batch_size).detect(images)
    classes, results = mmdets_own(tiny["config"], tiny["checkpoint"], images)
    assert tuple(classes) == CLASSES
    # the comparison is of something
    assert sum(len(tags) for tags in found) > 20 and {tag.name for tags in found for tag in tags} == set(CLASSES)
    assert len({tuple(image.size) for image in images}) > 1
    for tags, instances, image in zip(found, results, images):
        assert_same_detections(tags, classes, instances, image.size)


@pytest.mark.mmdet
def test_pictures_of_one_size_go_through_together(tiny, monkeypatch):
    provider = MMDetTagProvider(**tiny, batch_size=6)
    sizes, step = [], provider._model.test_step
    monkeypatch.setattr(provider._model, "test_step", lambda data: sizes.append(len(data["inputs"])) or step(data))
    provider.detect(pictures())
    assert sorted(sizes) == [1, 1, 2, 2]


@pytest.mark.mmdet
def test_thresholds_modes_and_no_pictures(tiny):
    few = MMDetTagProvider(**tiny, max_tags=2, min_score=0.3).detect(pictures())
    many = MMDetTagProvider(**tiny).detect(pictures())
    assert max(map(len, few)) == 2 and all(tag.score > 0.3 for tags in few for tag in tags)
    assert any(len(tags) > 2 for tags in many)
    for few_tags, many_tags in zip(few, many):
        assert few_tags == [tag for tag in many_tags if tag.score > 0.3][:2]
    provider = MMDetTagProvider(**tiny)
    for mode in ("L", "RGBA", "P"):
        picture = pictures()[0].convert(mode)
        assert provider.detect([picture]) == provider.detect([picture.convert("RGB")])
    assert provider.detect([]) == []
    assert provider.to("cpu") is provider and provider.device == torch.device("cpu")


@pytest.mark.mmdet
@pytest.mark.parametrize("scope", [None, "synthcap_mm"])
def test_default_scope_and_registries_stay(tiny, tmp_path, scope):
    saved = DefaultScope._instance_dict.copy()
    try:
        DefaultScope._instance_dict.clear()
        if scope:
            DefaultScope.get_instance("a-run", scope_name=scope)
        before, current = DefaultScope._instance_dict.copy(), DefaultScope.get_current_instance()

        def unchanged():
            assert DefaultScope.get_current_instance() is current and DefaultScope._instance_dict == before
            assert MODELS.get("MMDetTagProvider") is MMDetTagProvider
            assert MODELS.get("RetinaNetOfNobody") is None

        provider = MMDetTagProvider(**tiny)
        unchanged()
        provider.detect(pictures()[:1])
        unchanged()
        with pytest.raises(AttributeError):
            provider.detect(["not a picture"])
        unchanged()
        bad = tmp_path / "bad.py"
        bad.write_text(CONFIG.replace("'RetinaNet'", "'RetinaNot'"))
        with pytest.raises(KeyError, match="RetinaNot"):
            MMDetTagProvider(str(bad), tiny["checkpoint"])
        unchanged()
        # and with our scope current, our own components are still built by name
        assert MODELS.build(dict(type="MMDetTagProvider", **tiny)).classes == CLASSES
    finally:
        DefaultScope._instance_dict = saved


@pytest.mark.mmdet
def test_class_names_from_checkpoint_config_or_argument(tiny, tmp_path):
    assert MMDetTagProvider(**tiny).classes == CLASSES
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(tiny["checkpoint"], weights_only=False)["state_dict"], bare)
    assert MMDetTagProvider(tiny["config"], str(bare)).classes[:2] == ("person", "bicycle")  # CocoDataset's own
    named = tmp_path / "named.py"
    named.write_text(CONFIG + "test_dataloader['dataset']['metainfo'] = dict(classes=('x', 'y', 'z'))\n")
    assert MMDetTagProvider(str(named), str(bare)).classes == ("x", "y", "z")
    two = MMDetTagProvider(**tiny, classes=["one", "two"])
    with pytest.raises(UserError, match="label 2"):
        two.detect(pictures())


@pytest.mark.mmdet
def test_recipes_know_config_and_checkpoint_by_content(tiny, tmp_path):
    def recipe(**changes):
        return component_recipe({"type": "MMDetTagProvider", **tiny, **changes})

    plain = recipe()
    assert plain["config"]["file"] == "tiny.py" and plain["checkpoint"]["file"] == "tiny.pth"
    assert recipe(batch_size=1, device="cpu") == plain != recipe(max_tags=3)

    # Settings that decide the tags count, also those of a base; comments and where the data lie do not.
    def with_config(text):
        (tmp_path / "tiny.py").write_text(text)
        return recipe(config=str(tmp_path / "tiny.py"))

    assert with_config(f"# a comment\n{CONFIG}\ntest_dataloader['dataset']['ann_file'] = 'here.json'\n") == plain
    (tmp_path / "base.py").write_text(CONFIG)
    based = "_base_ = ['base.py']\n"
    assert with_config(based) == plain
    (tmp_path / "base.py").write_text(CONFIG.replace("iou_threshold=0.5", "iou_threshold=0.6"))
    assert with_config(based) != plain
    checkpoint = torch.load(tiny["checkpoint"], weights_only=False)
    checkpoint["meta"]["epoch"] = 2
    torch.save(checkpoint, tmp_path / "tiny.pth")
    assert recipe(checkpoint=str(tmp_path / "tiny.pth")) != plain


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (builtins.open, (self.path, "w"))


@pytest.mark.mmdet
def test_checkpoints_that_cannot_be_used(tiny, tmp_path):
    torch.save({"state_dict": {}, "meta": _Trap(str(tmp_path / "sprung"))}, tmp_path / "pickled.pth")
    (tmp_path / "cut.pth").write_bytes(Path(tiny["checkpoint"]).read_bytes()[:5000])
    for name, error in (("pickled", UserError), ("cut", UserError), ("none", FileNotFoundError)):
        with pytest.raises(error, match=rf"{name}\.pth"):
            MMDetTagProvider(tiny["config"], str(tmp_path / f"{name}.pth"))
    assert not (tmp_path / "sprung").exists()
    fewer = torch.load(tiny["checkpoint"], weights_only=False)
    del fewer["state_dict"]["bbox_head.retina_cls.weight"]
    torch.save(fewer, tmp_path / "fewer.pth")
    with pytest.raises(UserError, match=r"bbox_head\.retina"):
        MMDetTagProvider(tiny["config"], str(tmp_path / "fewer.pth"))
    with pytest.raises(UserError, match="batch_size"):
        MMDetTagProvider(**tiny, batch_size=0)


@pytest.mark.mmdet
def test_configs_by_name():
    pytest.importorskip("mmdet")
    name = "yolox/yolox_nano_8xb8-300e_coco"
    for asked in (name, f"{name}.py", f"mmdet::{name}.py", "yolox_nano_8xb8-300e_coco"):
        path, called = find_config(asked)
        assert path.is_file() and path.name == "yolox_nano_8xb8-300e_coco.py" and called == name
    with pytest.raises(UserError, match="yolox/yolox_nano_8xb8-300e_coco"):
        find_config("yolox/yolox_nano_8xb8_300e_coco")
    with pytest.raises(UserError, match="qqqqqqqq"):
        find_config("qqqqqqqq")


def hide(monkeypatch, error):
    for name in [name for name in sys.modules if name.split(".")[0] == "mmdet"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        if name.split(".")[0] == "mmdet":
            raise error
        return real(name, *args, **kwargs)

    def find(name, *args, **kwargs):
        raise error

    monkeypatch.setattr(builtins, "__import__", guarded)
    monkeypatch.setattr("importlib.import_module", find)


def test_missing_mmdet_names_the_pip_command(monkeypatch):
    hide(monkeypatch, ImportError("No module named 'mmdet'"))
    with pytest.raises(ImportError, match=r"pip install 'synthcap_mm\[mmdet\]'"):
        MMDetTagProvider("a.py", "b.pth")


def test_mmdet_that_refuses_its_mmcv(monkeypatch):
    hide(monkeypatch, AssertionError("MMCV==2.3.6 is used but incompatible."))
    with pytest.raises(ImportError, match=r"incompatible.*pip uninstall -y .*onedl-mmcv"):
        MMDetTagProvider("a.py", "b.pth")


@pytest.mark.mmdet
@pytest.mark.real
def test_real_yolox_nano_equals_mmdets_own(real_data):
    pytest.importorskip("mmdet")
    images = [Image.open(path) for path in sorted((real_data / "coco_mini" / "val2017").glob("*.jpg"))[:4]]
    checkpoint = str(real_data / "yolox_nano" / "yolox_nano_mmdet.pth")
    provider = MMDetTagProvider("yolox/yolox_nano_8xb8-300e_coco", checkpoint, batch_size=4)
    found = provider.detect(images)
    classes, results = mmdets_own(find_config("yolox/yolox_nano_8xb8-300e_coco")[0], checkpoint, images)
    assert sum(map(len, found)) > 4 and provider.classes[0] == "person"
    for tags, instances, image in zip(found, results, images):
        assert_same_detections(tags, classes, instances, image.size)


BY_NAME = ["detr/detr_r50_8xb2-150e_coco", "rtmdet/rtmdet_tiny_8xb32-300e_coco", "yolox/yolox_tiny_8xb8-300e_coco"]


def save_detector(name, folder, classes):
    """A detector of mmdet's own config ``name`` with random weights, saved as MMEngine's runner does."""
    from mmengine.config import Config

    from synthcap_mm.models.tag_providers.mmdet_tag_provider import _build_detector

    with mmdet_scope():
        cfg = Config.fromfile(find_config(name)[0])
        torch.manual_seed(0)
        model = _build_detector(cfg, name)
    model.eval()
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as a trained one, not the identity
            module.running_mean.normal_(std=0.05)
            module.running_var.uniform_(0.8, 1.2)
        if key.rsplit(".", 1)[0].endswith(("cls_preds", "rtm_cls", "multi_level_conv_cls")):
            module.bias.data.fill_(-1.0)  # untrained heads begin far below any threshold
            module.weight.data.normal_(std=0.05)
    checkpoint = {"meta": {"dataset_meta": {"classes": classes, "palette": []}}, "state_dict": model.state_dict()}
    torch.save(checkpoint, folder / "random.pth")
    return str(folder / "random.pth")


@pytest.mark.mmdet
@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_detectors_of_mmdets_own_configs_by_name(name, tmp_path, monkeypatch):
    """DETR, RTMDet and YOLOX: built by name, batched, equal to mmdet's own inference, classes by the checkpoint."""
    pytest.importorskip("mmdet")
    classes = tuple(f"thing {number}" for number in range(80))
    checkpoint = save_detector(name, tmp_path, classes)
    rng = np.random.default_rng(1)
    images = [
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72), Image.NEAREST)
        for _ in range(3)
    ]
    provider = MMDetTagProvider(name, checkpoint, batch_size=3, min_score=0.005)
    assert provider.classes == classes
    for transform in provider._pipeline.transforms:  # DETR at 800 x 1333 takes half a minute a picture on a CPU
        for attribute in {"scale", "size"} & set(vars(transform)):
            setattr(transform, attribute, (128, 128))
    sizes, step = [], provider._model.test_step
    monkeypatch.setattr(provider._model, "test_step", lambda data: sizes.append(len(data["inputs"])) or step(data))
    together = provider.detect(images)
    assert sizes == [3] and all(together)
    _, results = mmdets_own(find_config(name)[0], checkpoint, images, provider._pipeline)
    for tags, instances in zip(together, results):
        best = instances.scores.sort(descending=True).values[:20]
        np.testing.assert_allclose([tag.score for tag in tags], best[: len(tags)], atol=1e-3)
    for image, tags in zip(images, together):
        np.testing.assert_allclose([t.score for t in provider.detect([image])[0]], [t.score for t in tags], atol=1e-3)
