# The mini-world's upper bound: the same decoder, taught on the real photos of the very scenes that the captions tell of.
_base_ = ["../../configs/synthcap_mini.py"]
custom_imports = dict(imports=["paired_photos"], allow_failed_imports=False)
store = "data/miniscenes/real_pairs"
synthesis = dict(
    store=store,
    generator=dict(_delete_=True, type="PairedPhotos", pool=dict(type="MiniScenesPhotos", split="train", num=4000)),
    refine=None,
)
model = dict(store=store, necks=[dict(type="PrefixProjector", in_dim=256, width=128, prefix_length=4, kind="mlp")])
train_dataloader = dict(dataset=dict(store=store, refined=False))
val_dataloader = dict(dataset=dict(store=store))
