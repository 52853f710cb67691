# SynTIC and what held-out captions prefer besides (docs/results.md): pseudo features optimised to a cosine of 0.60 with their
# caption, where the prefixes of training and inference meet (docs/refinement.md), and beams ordered by CLIPScore.
_base_ = ["synthcap_mini_refined_as.py"]
curation = dict(name="to_60", refine=dict(target_cosine=0.6, steps=60))
train_dataloader = dict(dataset=dict(pairs="to_60"))
model = dict(rerank=True, backbone=_base_.synthesis.encoder)
