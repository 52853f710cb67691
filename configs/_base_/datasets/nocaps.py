# NoCaps' validation set (4,500 photos: 648 in-domain, 2,938 near-domain, 914 out-domain) as the test of a captioner that
# learned from COCO's captions; NoCaps has no captions to train on. Metrics are of all photos and of each domain
# (in-domain/CIDEr, near-domain/CIDEr, out-domain/CIDEr).
#   python tools/prepare_data.py coco nocaps --source DOWNLOADS
# One domain alone: photo_stores.0.photos.domain=out-domain, with a store of its own for photo_stores.0.store and
# test_dataloader.dataset.store.
_base_ = ["coco_karpathy.py"]
test_photos = "data/nocaps/test"
photo_stores = [dict(store=test_photos, photos=_base_.nocaps_test)]
inputs = [
    _base_.coco_inputs[0],
    *_base_.nocaps_inputs,
    _base_.clip_vit_b32_input,
    *_base_.synthesis_inputs,
]
test_dataloader = dict(dataset=dict(store=test_photos))
