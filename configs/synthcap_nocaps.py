# A captioner of synthcap_coco.py, tested on NoCaps' validation set; the pairs and the training are the same.
#   python tools/encode_images.py configs/synthcap_nocaps.py
#   python tools/test.py configs/synthcap_nocaps.py work_dirs/synthcap_coco/best_CIDEr_epoch_N.pth
# Not run at this scale yet (README, "Status").
_base_ = [
    "_base_/datasets/nocaps.py",
    "_base_/models/synthcap.py",
    "_base_/schedules/adamw_10e.py",
    "_base_/default_runtime.py",
]
model = dict(store=_base_.store)
