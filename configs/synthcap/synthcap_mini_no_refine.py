# SynTIC without optimised pseudo features: those of the drawings as they are.
_base_ = ["../synthcap_mini.py"]
train_dataloader = dict(dataset=dict(refined=False))
