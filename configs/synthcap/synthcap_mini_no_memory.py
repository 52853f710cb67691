# SynTIC without the memory: features are projected nowhere, in training and at inference.
_base_ = ["../synthcap_mini.py"]
model = dict(necks=dict(memory=None))
