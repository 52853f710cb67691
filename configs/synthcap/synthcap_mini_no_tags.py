# SynTIC without objects in the prompt, in training and at inference.
_base_ = ["../synthcap_mini.py"]
model = dict(data_preprocessor=dict(prompt=None))
