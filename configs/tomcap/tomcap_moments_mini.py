# TOMCap's moment matching alone on the mini-world: captions' features get the mean and spread of photos that nobody has described.
_base_ = ["../synthcap_mini.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        moments=dict(type="MomentMatching", start="captions", target=_base_.val_photos, spread=True),
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
