# SynTIC on Flickr30k: as synthcap_coco.py, from Flickr30k's captions.
#   bash tools/dist_synthesize.sh configs/synthcap_flickr30k.py 8
#   python tools/encode_images.py configs/synthcap_flickr30k.py
#   bash tools/dist_train.sh configs/synthcap_flickr30k.py 8
# Not run at this scale yet (README, "Status").
_base_ = [
    "_base_/datasets/flickr30k_karpathy.py",
    "_base_/models/synthcap.py",
    "_base_/schedules/adamw_10e.py",
    "_base_/default_runtime.py",
]
model = dict(store=_base_.store)
# As in synthcap_coco.py; COCO's photos are encoded by its config.
test_sets = [
    dict(name="flickr30k", store=_base_.test_photos),
    dict(name="coco", store="data/coco/test"),
    dict(name="coco TT", store="data/coco/test", memory=_base_.coco_captions),
]
