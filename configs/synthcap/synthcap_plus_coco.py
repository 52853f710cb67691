# SynTIC+ on COCO: SynTIC's training, and eight beams ordered by CLIPScore, which is what helped on the mini-world and on real
# photos (research/logs/results.md). Tests the checkpoint of ../synthcap_coco.py. The photos' mean and the missing memory of
# synthcap_plus_mini.py are the mini-CLIP's: its cloud of photos lies elsewhere than its drawings', which of CLIP is not known.
_base_ = ["../synthcap_coco.py"]
model = dict(
    rerank=dict(type="CaptionRanker", scores=dict(image=dict(type="ImageScore"))),
    head=dict(generation=dict(num_beams=8)),
)
