# SynTIC+: what the validation photos prefer of the mini-world's combinations (research/logs/results.md). Drawings get the mean of
# photos that nobody has described, nothing is projected, and the beams are ordered by CLIPScore and the tags that they name.
_base_ = ["synthcap_mini_moments.py"]
model = dict(
    necks=dict(memory=None),
    rerank=dict(type="CaptionRanker", scores=dict(image=dict(type="ImageScore"), tags=dict(type="TagScore"))),
)
