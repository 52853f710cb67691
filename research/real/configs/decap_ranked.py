# DeCap with the beams and the ranker of synthcap_plus.py, so that the two differ in training only, and its sharper memory.
_base_ = ["decap.py", "_base_/ranker.py"]
model = dict(
    necks=dict(memory=dict(temperature=0.04)),
    head=dict(generation=dict(num_beams=8)),
    rerank=_base_.ranker,
)
