# SynTIC and what held-out captions prefer besides (docs/results.md): beams ordered by CLIPScore.
_base_ = ["../synthcap_mini.py"]
model = dict(rerank=True, backbone=_base_.synthesis.encoder)
