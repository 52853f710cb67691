# Moment matching on the mini-world: captions' features get the mean and spread of photos that nobody has described.
_base_ = ["../synthcap_mini.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=[
        dict(type="TextAsPrefix"),
        dict(type="MomentMatching", start="captions", target=_base_.val_photos, spread=True),
        _base_.projector,
    ],
)
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
