# Diffusion Bridge: captions' features in training, the image's denoised into such at inference; no memory, no tags.
_base_ = ["_base_real.py"]
model = dict(
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        # The paper's step and number of steps; the images whose mean is taken off are the pool's.
        bridge=dict(type="DiffusionBridge", enter=600, steps=12, hidden_dim=256, blocks=2),
        projector=_base_.model.necks.projector,
    ),
)
