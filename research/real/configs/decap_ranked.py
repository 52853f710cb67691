# DeCap with the beams and the ranker of synthcap_plus.py, so that the two differ in training only, and its sharper memory.
_base_ = ["decap.py", "../../../configs/_base_/models/ranker.py"]
model = dict(
    necks=dict(memory=dict(temperature=0.04)),
    head=dict(generation=dict(num_beams=8)),
    rerank=dict(
        _base_.ranker,
        scores=dict(_base_.ranker.scores, consensus=dict(_base_.ranker.scores.consensus, temperature=0.07)),
    ),
)
