# 400 real Stable Diffusion images (DrawBench's prompts, v1.4 and v1.5) through the factory: encoded, tagged, flagged.
#   export SYNTHCAP_REAL_DATA=DATA_ROOT SYNTHCAP_REAL_WORK=work_dirs/real PYTHONPATH=.
#   python tools/synthesize.py research/real/configs/drawbench.py
#   python -m research.real.drawbench                      a sheet to look at, and the table of research/logs/real_pairs.md
_base_ = ["../../../configs/_base_/default_runtime.py"]
data_root = "{{$SYNTHCAP_REAL_DATA:../shared/real}}"
work_root = "{{$SYNTHCAP_REAL_WORK:work_dirs/real}}"
custom_imports = dict(imports=["research.real.dual_encoder_backbone", "research.real.ready_made_images"])
synthesis = dict(
    store=work_root + "/drawbench",
    captions=dict(type="CaptionFile", path=data_root + "/sd_drawbench/metadata.jsonl"),
    encoder=dict(type="DualEncoderBackbone", root=data_root + "/dual_encoder"),
    generator=dict(type="ReadyMadeImages", root=data_root + "/sd_drawbench"),
    tag_provider=dict(
        type="MMDetTagProvider",
        config="yolox/yolox_nano_8xb8-300e_coco.py",
        checkpoint=data_root + "/yolox_nano/yolox_nano_mmdet.pth",
    ),
    tokenizer=None,
    holdout=0.0,
    shard_size=100,
)
