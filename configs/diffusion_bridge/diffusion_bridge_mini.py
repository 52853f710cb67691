# Diffusion Bridge on the mini-world: a small diffusion model of captions' features denoises images' features into such.
_base_ = ["../synthcap_mini.py"]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        bridge=dict(
            type="DiffusionBridge",
            enter=600,  # the paper's
            steps=5,  # its public code's; the paper's 12 bring held-out drawings no nearer to their captions
            hidden_dim=256,  # assumed
            blocks=2,
            start=_base_.val_photos,  # photos that nobody has described; the public code has training photos
        ),
        projector=_base_.model.necks.projector,
    ),
)
# Learns from captions alone; the drawings of the held-out captions choose the epoch, as for every method.
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
