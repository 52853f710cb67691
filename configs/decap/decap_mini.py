# DeCap on the mini-world: the caption's feature in training, the image's feature projected onto the captions at inference.
_base_ = ["../synthcap_mini.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        memory=dict(type="TextMemoryProjection", temperature=0.01, phases=["predict"]),  # its public code: 1/100
        projector=_base_.model.necks.projector,
    ),
)
# Learns from captions alone; the drawings of the held-out captions choose the epoch, as for every method.
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
