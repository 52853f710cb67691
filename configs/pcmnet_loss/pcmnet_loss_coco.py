# SynTIC on COCO, each pair weighing in the loss by its CLIP score: PCM-Net's loss. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
train_dataloader = dict(dataset=dict(weight_by="score", weight_range=(0.0, 1.0)))
