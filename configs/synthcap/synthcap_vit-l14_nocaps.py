# A captioner of synthcap_vit-l14_coco.py, tested on NoCaps' validation set, as ../synthcap_nocaps.py with ViT-B/32.
# Not run at this scale yet (README, "Status").
_base_ = ["synthcap_vit-l14_coco.py"]
test_photos = "data/nocaps/test" + _base_.vit_l14.store
photo_stores = [dict(store=test_photos, photos=_base_.nocaps_test)]
inputs = [_base_.coco_inputs[0], *_base_.nocaps_inputs, _base_.clip_vit_l14_input, *_base_.synthesis_inputs]
test_dataloader = dict(dataset=dict(store=test_photos))
test_sets = [entry for entry in _base_.test_sets if entry["name"] == "nocaps"]
