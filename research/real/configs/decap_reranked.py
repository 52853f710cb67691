# DeCap with the beams and the order of synthcap_reranked.py, so that the two differ in training only.
_base_ = ["decap.py"]
model = dict(
    rerank=dict(type="CaptionRanker", scores=dict(image=dict(type="ImageScore"))),
    head=dict(generation=dict(num_beams=8)),
)
