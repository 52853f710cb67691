# SynTIC+ on COCO: SynTIC's training, and a ranker that chooses among eight beams and ten captions of the memory, which helped
# on real photos (research/logs/ranking.md). Tests the checkpoint of ../synthcap_coco.py. Not run at this scale.
_base_ = ["../synthcap_coco.py", "../_base_/models/ranker.py"]
model = dict(rerank=_base_.ranker, head=dict(generation=dict(num_beams=8)))
