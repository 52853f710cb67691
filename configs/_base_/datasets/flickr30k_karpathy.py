# Flickr30k's captions in Karpathy's splits (29,000/1,014/1,000 photos); the settings are COCO's but for the data.
#   python tools/prepare_data.py flickr30k --source DOWNLOADS
_base_ = ["coco_karpathy.py"]
store = "data/flickr30k/pairs"
test_photos = "data/flickr30k/test"
annotations = "data/flickr30k/annotations/dataset_flickr30k.json"
photos = "data/flickr30k/images"
synthesis = dict(store=store, captions=dict(path=annotations))
photo_stores = [
    dict(store=test_photos, photos=dict(type="KarpathyPhotos", ann_file=annotations, image_root=photos, split="test")),
]
inputs = [
    dict(
        path=annotations,
        how="Karpathy's splits: dataset_flickr30k.json from caption_datasets.zip, "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip; then: "
        "python tools/prepare_data.py flickr30k --source DOWNLOADS",
    ),
    dict(
        path=photos,
        how="Flickr30k's photos, on request: https://shannon.cs.illinois.edu/DenotationGraph/; then: "
        "python tools/prepare_data.py flickr30k --source DOWNLOADS",
    ),
    *_base_.inputs[2:],
]
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
test_dataloader = dict(dataset=dict(store=test_photos))
