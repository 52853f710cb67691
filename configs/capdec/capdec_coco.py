# CapDec on COCO: the caption's feature with noise in training, the image's own feature at inference. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        noise=dict(type="NoiseInjection", variance=0.016),  # its public code
        projector=_base_.model.necks.projector,
    ),
)
# Learns from captions alone; the drawings of the held-out captions choose the epoch, as for every method.
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
