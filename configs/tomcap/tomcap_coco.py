# Moment matching on COCO: captions' features get the mean and spread of photos that nobody has described. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
# The validation photos of Karpathy's splits, without their captions. python tools/encode_images.py makes it.
unpaired = "data/coco/val"
photo_stores = [
    *_base_.photo_stores,
    dict(
        store=unpaired,
        photos={**_base_.coco_test, "split": "val"},
    ),
]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        moments=dict(type="MomentMatching", start="captions", target=unpaired, spread=True),
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
