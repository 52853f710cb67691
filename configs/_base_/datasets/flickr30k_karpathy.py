# Flickr30k's captions in Karpathy's splits (29,000/1,014/1,000 photos); the settings are COCO's but for the data.
#   python tools/prepare_data.py flickr30k --source DOWNLOADS
_base_ = ["coco_karpathy.py"]
store = "data/flickr30k/pairs"
test_photos = "data/flickr30k/test"
synthesis = dict(store=store, captions=_base_.flickr30k_captions)
photo_stores = [dict(store=test_photos, photos=_base_.flickr30k_test)]
inputs = [*_base_.flickr30k_inputs, _base_.clip_vit_b32_input, *_base_.synthesis_inputs]
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
test_dataloader = dict(dataset=dict(store=test_photos))
