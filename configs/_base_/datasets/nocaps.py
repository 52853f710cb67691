# NoCaps' validation set (4,500 photos: 648 in-domain, 2,938 near-domain, 914 out-domain) as the test of a captioner that
# learned from COCO's captions; NoCaps has no captions to train on. Metrics are of all photos and of each domain
# (in-domain/CIDEr, near-domain/CIDEr, out-domain/CIDEr).
#   python tools/prepare_data.py coco nocaps --source DOWNLOADS
# One domain alone: photo_stores.0.photos.domain=out-domain, with a store of its own for photo_stores.0.store and
# test_dataloader.dataset.store.
_base_ = ["coco_karpathy.py"]
test_photos = "data/nocaps/test"
nocaps_annotations = "data/nocaps/annotations/nocaps_val_4500_captions.json"
nocaps_photos = "data/nocaps/val"
photo_stores = [
    dict(
        store=test_photos,
        photos=dict(type="CocoPhotos", ann_file=nocaps_annotations, image_root=nocaps_photos, domain=None),
    ),
]
inputs = [
    _base_.inputs[0],
    dict(
        path=nocaps_annotations,
        how="https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json; then: "
        "python tools/prepare_data.py nocaps --source DOWNLOADS",
    ),
    dict(
        path=nocaps_photos,
        how="NoCaps' validation photos, by the field coco_url of that json (https://nocaps.org/download); then: "
        "python tools/prepare_data.py nocaps --source DOWNLOADS",
    ),
    *_base_.inputs[2:],
]
test_dataloader = dict(dataset=dict(store=test_photos))
