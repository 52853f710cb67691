# COCO → Flickr30k: a captioner of synthcap_vit-l14_coco.py, tested on Flickr30k; with COCO's captions as the memory
# by tools/test.py, and by tools/test_many.py also with Flickr30k's (TT). The pairs and the training are COCO's.
#   python tools/encode_images.py configs/synthcap/synthcap_vit-l14_coco-to-flickr30k.py
#   python tools/test_many.py configs/synthcap/synthcap_vit-l14_coco-to-flickr30k.py CHECKPOINT
# Not run at this scale yet (README, "Status").
_base_ = ["synthcap_vit-l14_coco.py"]
test_photos = "data/flickr30k/test" + _base_.vit_l14.store
photo_stores = [dict(store=test_photos, photos=_base_.flickr30k_test)]
inputs = [_base_.coco_inputs[0], *_base_.flickr30k_inputs, _base_.clip_vit_l14_input, *_base_.synthesis_inputs]
test_dataloader = dict(dataset=dict(store=test_photos))
test_sets = [entry for entry in _base_.test_sets if entry["store"] == test_photos]
