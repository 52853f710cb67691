# TOMCap on the mini-world: moment matching, and captions retrieved as prompt and as what cross-attention sees.
_base_ = ["tomcap_moments_mini.py"]
model = dict(
    necks=dict(
        _delete_=True,
        text=_base_.model.necks.text,
        moments=_base_.model.necks.moments,
        retrieved=dict(
            type="RetrievedCaptions",
            k=4,  # TOMCap's
            prompt="Similar images have the following captions: {captions} Write a caption:",
            prompt_length=128,
        ),
        projector=_base_.model.necks.projector,
    ),
    # From scratch, as every method's here: there is nothing for LoRA to adapt, and all of it learns.
    head=dict(cross_attention=True, positions=192),
)
