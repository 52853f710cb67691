# SynTIC's checkpoint with eight beams, ordered by CLIPScore.
_base_ = ["synthcap.py"]
model = dict(rerank=True, backbone=_base_.synthesis.encoder, head=dict(generation=dict(num_beams=8)))
