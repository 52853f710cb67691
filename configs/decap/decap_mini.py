# DeCap on the mini-world: the caption's feature in training, the image's feature projected onto the captions at inference.
_base_ = ["../synthcap_mini.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=[
        dict(type="TextAsPrefix"),
        dict(type="TextMemoryProjection", temperature=0.01, phases=["predict"]),  # its public code: 1/100
        _base_.projector,
    ],
)
# Learns from captions alone; the drawings of the held-out captions choose the epoch, as for every method.
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
