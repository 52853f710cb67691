# SynTIC and what held-out captions prefer besides (docs/real_photos.md): eight beams, ordered by CLIPScore.
_base_ = ["synthcap.py"]
model = dict(rerank=True, backbone=_base_.synthesis.encoder, head=dict(generation=dict(num_beams=8)))
