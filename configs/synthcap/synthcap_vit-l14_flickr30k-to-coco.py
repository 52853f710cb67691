# Flickr30k → COCO: a captioner of synthcap_vit-l14_flickr30k.py, tested on COCO; with Flickr30k's captions as the memory
# by tools/test.py, and by tools/test_many.py also with COCO's (TT). The pairs and the training are Flickr30k's.
#   python tools/encode_images.py configs/synthcap/synthcap_vit-l14_flickr30k-to-coco.py
#   python tools/test_many.py configs/synthcap/synthcap_vit-l14_flickr30k-to-coco.py CHECKPOINT
# Not run at this scale yet (README, "Status").
_base_ = ["synthcap_vit-l14_flickr30k.py"]
test_photos = "data/coco/test" + _base_.vit_l14.store
photo_stores = [dict(store=test_photos, photos=_base_.coco_test)]
inputs = [_base_.flickr30k_inputs[0], *_base_.coco_inputs, _base_.clip_vit_l14_input, *_base_.synthesis_inputs]
test_dataloader = dict(dataset=dict(store=test_photos))
test_sets = [entry for entry in _base_.test_sets if entry["store"] == test_photos]
