# SynTIC on COCO, trained on the pairs that SynC's curation chooses. Not run at this scale.
#   bash tools/dist_curate.sh configs/sync/sync_coco.py 8   after dist_synthesize.sh
_base_ = ["../synthcap_coco.py"]
train_dataloader = dict(dataset=dict(pairs="curated", refined=True))
