# CapDec: the caption's feature with noise in training, the image's own feature at inference; no images, no tags.
_base_ = ["_base_real.py"]
model = dict(
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        noise=dict(type="NoiseInjection", variance=0.016),  # its public code
        projector=_base_.model.necks.projector,
    ),
)
