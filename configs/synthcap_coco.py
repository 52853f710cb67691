# SynTIC (AAAI 2024, arXiv 2312.08865) on COCO: a captioner from captions alone.
#   bash tools/dist_synthesize.sh configs/synthcap_coco.py 8   draws and encodes an image for each caption
#   python tools/encode_images.py configs/synthcap_coco.py     encodes the test photos
#   bash tools/dist_train.sh 8                                 trains; the epoch is chosen on held-out captions
#   bash tools/dist_test.sh configs/synthcap_coco.py work_dirs/synthcap_coco/best_CIDEr_epoch_N.pth 8
# Not run at this scale yet (README, "Status").
_base_ = [
    "_base_/datasets/coco_karpathy.py",
    "_base_/models/synthcap.py",
    "_base_/schedules/adamw_10e.py",
    "_base_/default_runtime.py",
]
model = dict(store=_base_.store)
# One checkpoint, many tables (docs/metrics.md): python tools/test_many.py configs/synthcap_coco.py CHECKPOINT [--sets coco]
# The other sets' photos are encoded by their own configs: python tools/encode_images.py configs/synthcap_flickr30k.py,
# and configs/synthcap_nocaps.py.
test_sets = [
    dict(name="coco", store=_base_.test_photos),
    dict(name="flickr30k", store="data/flickr30k/test"),
    # TT: the memory is the target domain's captions.
    dict(name="flickr30k TT", store="data/flickr30k/test", memory=_base_.flickr30k_captions),
    dict(name="nocaps", store="data/nocaps/test"),
]
