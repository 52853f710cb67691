# SynTIC+: what held-out captions prefer of all combinations that were run (research/logs/real_photos.md). SynC's curation, a
# sharper memory in training and at inference, a projector that sees features 16 times as large, and eight beams in
# CLIPScore's order. Trained like synthcap.py else.
_base_ = ["synthcap_reranked.py"]
model = dict(necks=dict(memory=dict(temperature=0.04), projector=dict(input_scale=16.0)))
train_dataloader = dict(dataset=dict(pairs="curated"))
