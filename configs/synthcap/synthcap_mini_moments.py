# SynTIC whose pseudo features are not optimised one by one, but given the mean of photos that nobody has described.
_base_ = ["../synthcap_mini.py"]
model = dict(
    necks=dict(
        _delete_=True,
        moments=dict(type="MomentMatching", start="images", target=_base_.val_photos, spread=False, sources=["pseudo"]),
        **_base_.model.necks,
    ),
)
train_dataloader = dict(dataset=dict(refined=False))
