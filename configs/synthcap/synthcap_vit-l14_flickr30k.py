# SynTIC on Flickr30k with CLIP ViT-L/14: as ../synthcap_flickr30k.py, on features of its own.
# Not run at this scale yet (README, "Status").
_base_ = ["../synthcap_flickr30k.py", "../_base_/models/vit_l14.py"]
store = _base_.store + _base_.vit_l14.store
test_photos = _base_.test_photos + _base_.vit_l14.store
synthesis = dict(store=store, encoder=_base_.vit_l14.encoder, refine=_base_.vit_l14.refine)
photo_stores = [dict(store=test_photos, photos=_base_.flickr30k_test)]
inputs = [*_base_.flickr30k_inputs, _base_.clip_vit_l14_input, *_base_.synthesis_inputs]
model = dict(store=store)
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
test_dataloader = dict(dataset=dict(store=test_photos))
test_sets = [{**entry, "store": entry["store"] + _base_.vit_l14.store} for entry in _base_.test_sets]
