# SynTIC+: eight beams, ordered by CLIPScore. How it was chosen, and that held-out captions do not prove it: docs/real_photos.md.
_base_ = ["synthcap.py"]
model = dict(rerank=True, backbone=_base_.synthesis.encoder, head=dict(generation=dict(num_beams=8)))
