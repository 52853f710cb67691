# SynTIC, and half of the training's prefixes are made of the caption's own feature: an addition of this project's.
_base_ = ["synthcap.py"]
model = dict(
    necks=dict(
        _delete_=True,
        refine=_base_.model.necks.refine,
        mix=dict(type="TextFeatureMix", prob=0.5, phases=["train"]),
        memory=_base_.model.necks.memory,
        # The other place, off: the caption's feature unprojected.
        unprojected=dict(type="TextFeatureMix", prob=0.5, phases=[]),
        projector=dict(_base_.model.necks.projector, input_scale=16.0),
    ),
)
