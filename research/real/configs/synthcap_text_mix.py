# SynTIC, and half of the training's prefixes are made of the caption's own feature: an addition of this project's.
_base_ = ["synthcap.py"]
model = dict(
    necks=[
        _base_.model.necks[0],
        dict(type="TextFeatureMix", prob=0.5, phases=["train"]),
        _base_.model.necks[1],
        dict(type="TextFeatureMix", prob=0.5, phases=[]),  # the other place, off: the caption's feature unprojected
        dict(type="PrefixProjector", in_dim=256, width=_base_.width, prefix_length=2, kind="mlp", input_scale=16.0),
    ],
)
