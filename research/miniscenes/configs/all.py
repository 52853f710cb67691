# SynTIC with curation by encoder and tags, and with the weighted loss, together.
_base_ = ["../../../configs/sync/sync_tags_mini.py"]
train_dataloader = dict(dataset=dict(weight_by="score", weight_range=(0.0, 1.0)))
