# SynTIC on the mini-world, trained on the pairs that SynC's curation chooses (the config's curation, docs/curation.md).
_base_ = ["../synthcap_mini.py"]
train_dataloader = dict(dataset=dict(pairs="curated", refined=True))
