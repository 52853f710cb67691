# SynTIC's checkpoint with eight beams, ordered by CLIPScore.
_base_ = ["synthcap.py"]
model = dict(
    rerank=dict(type="CaptionRanker", scores=dict(image=dict(type="ImageScore"))),
    head=dict(generation=dict(num_beams=8)),
)
