# SynTIC's checkpoint with eight beams, ordered by CLIPScore.
_base_ = ["synthcap.py"]
model = dict(rerank=True, head=dict(generation=dict(num_beams=8)))
