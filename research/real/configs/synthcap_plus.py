# SynTIC+: SynC's curation, a sharper memory in training and at inference, a projector that sees features 16 times as large,
# and the ranker of configs/_base_/models/ranker.py with this encoder's temperature. Training's settings are those that
# held-out captions preferred before (research/logs/real_photos.md). The ranker's were written down before the photos were
# scored with them: held-out captions chose, by pictures that another encoder found for them (research/logs/ranking.md).
_base_ = ["synthcap.py", "_base_/ranker.py"]
model = dict(
    necks=dict(memory=dict(temperature=0.04), projector=dict(input_scale=16.0)),
    head=dict(generation=dict(num_beams=8)),
    rerank=_base_.ranker,
)
train_dataloader = dict(dataset=dict(pairs="curated"))
