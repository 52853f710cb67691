# DeCap: the caption's feature in training, the image's feature projected onto the captions at inference.
_base_ = ["_base_real.py"]
model = dict(
    necks=[
        dict(type="TextAsPrefix"),
        # Its public code has 1/100, CLIP's temperature; tau belongs to the encoder, and is SynTIC's here.
        dict(type="TextMemoryProjection", temperature=0.07, phases=["predict"]),
        _base_.projector,
    ],
)
