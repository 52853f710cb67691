# SynTIC on the mini-world, each pair weighing in the loss by its CLIP score: PCM-Net's loss.
_base_ = ["../synthcap_mini.py"]
train_dataloader = dict(dataset=dict(weight_by="score", weight_range=(0.0, 1.0)))
