"""A tiny detector of mmdet's real classes, with a checkpoint as MMEngine's runner writes it."""

import numpy as np
import torch

# A RetinaNet small enough for a test.
CONFIG = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True, style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, start_level=1, num_outs=3),
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0] * 4, target_stds=[1.0] * 4)),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=50))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""
CLASSES = ("cat", "dog", "bird")


def write(folder):
    """Writes ``tiny.py`` and ``tiny.pth``; returns the provider's arguments."""
    from mmengine.config import Config
    from mmengine.logging import HistoryBuffer

    from synthcap_mm.models.tag_providers.mmdet_tag_provider import mmdet_scope

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(CONFIG)
    with mmdet_scope():
        from mmdet.registry import MODELS as DETECTORS
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
        cfg = Config.fromfile(folder / "tiny.py").model
        cfg.backbone.init_cfg = None
        torch.manual_seed(0)
        model = DETECTORS.build(cfg)
    for name, parameter in model.named_parameters():
        if "retina_cls" in name:  # untrained heads see nothing anywhere
            parameter.data.normal_(std=2.0 if "weight" in name else 0.1)
    # what MMEngine's runner saves beside the weights
    history = HistoryBuffer()
    history.update(np.float64(0.5), 2)
    checkpoint = {
        "meta": {"dataset_meta": {"CLASSES": CLASSES, "PALETTE": [(1, 2, 3)]}, "epoch": 1, "seed": np.int64(3)},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": history}},
    }
    torch.save(checkpoint, folder / "tiny.pth")
    return {"config": str(folder / "tiny.py"), "checkpoint": str(folder / "tiny.pth")}
