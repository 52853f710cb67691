# The mini-world's upper bound: the same decoder, taught on the real photos of the very scenes that the captions tell of.
_base_ = ["../../../configs/synthcap_mini.py"]
custom_imports = dict(imports=["research.miniscenes.paired_photos"])
store = "data/miniscenes/real_pairs"
synthesis = dict(
    store=store,
    generator=dict(_delete_=True, type="PairedPhotos", pool=dict(type="MiniScenesPhotos", split="train", num=4000)),
    refine=None,
)
model = dict(store=store, necks=dict(memory=None))
train_dataloader = dict(dataset=dict(store=store, refined=False))
val_dataloader = dict(dataset=dict(store=store))
# As long as it helps: what bounds others is not to be bounded by time.
train_cfg = dict(max_epochs=30, val_interval=3)
