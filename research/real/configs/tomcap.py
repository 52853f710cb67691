# TOMCap-style: captions' features moved to where the pool's photos lie, retrieved captions as prompt and context; no tags.
# From scratch, as all here, so without LoRA. The same options as tomcap_mini.py.
_base_ = ["_base_real.py"]
model = dict(
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        moments=dict(type="MomentMatching", start="captions", target="images", spread=True),
        retrieved=dict(
            type="RetrievedCaptions",
            k=4,
            prompt="Similar images have the following captions: {captions} Write a caption:",
            prompt_length=128,
        ),
        projector=_base_.model.necks.projector,
    ),
    head=dict(cross_attention=True, positions=192),
)
