# SynTIC on the mini-world's second dialect, trained and tested there; its captions are the memory of those that come from
# the first (TT): --cfg-options model.necks.memory.memory=data/miniscenes/second_pairs
_base_ = ["../../../configs/synthcap_mini.py"]
custom_imports = dict(imports=["research.miniscenes.dialects"])
store = "data/miniscenes/second_pairs"
test_photos = "data/miniscenes/second_test"
synthesis = dict(store=store, captions=dict(type="DialectCaptions", dialect="second"))
photo_stores = [
    dict(
        store=test_photos,
        photos=dict(type="DialectPhotos", split="test", num=300, dialect="second"),
        image_batch=64,
    ),
]
model = dict(store=store)
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
test_dataloader = dict(dataset=dict(store=test_photos))
