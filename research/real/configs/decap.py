# DeCap: the caption's feature in training, the image's feature projected onto the captions at inference.
_base_ = ["_base_real.py"]
model = dict(
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        # Its public code has 1/100, CLIP's temperature; tau belongs to the encoder, and is SynTIC's here.
        memory=dict(type="TextMemoryProjection", temperature=0.07, phases=["predict"]),
        projector=_base_.model.necks.projector,
    ),
)
