# Diffusion Bridge on COCO: a small diffusion model of captions' features denoises images' features into such. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
# The validation photos of Karpathy's splits, without their captions. python tools/encode_images.py makes it.
unpaired = "data/coco/val"
photo_stores = [
    *_base_.photo_stores,
    dict(
        store=unpaired,
        photos={**_base_.coco_test, "split": "val"},
    ),
]
model = dict(
    data_preprocessor=dict(prompt=None),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        bridge=dict(
            type="DiffusionBridge",
            # The paper's: step of 1,000, DDIM steps (its public code: 5), length of the features.
            enter=600,
            steps=12,
            scale=5.0,
            hidden_dim=2048,  # assumed; the paper has a 1-D U-Net
            blocks=4,
            start=unpaired,  # the public code: the training photos, without their captions
        ),
        projector=_base_.model.necks.projector,
    ),
)
# The paper trains the denoiser at 8e-5. bypass_duplicate: the decoder's tied embeddings count once.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(denoiser=dict(lr_mult=8.0)), bypass_duplicate=True))
# Learns from captions alone; the drawings of the held-out captions choose the epoch, as for every method.
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
