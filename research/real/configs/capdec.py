# CapDec: the caption's feature with noise in training, the image's own feature at inference; no images, no tags.
_base_ = ["_base_real.py"]
model = dict(
    necks=[
        dict(type="TextAsPrefix"),
        dict(type="NoiseInjection", variance=0.016),  # its public code
        _base_.projector,
    ],
)
