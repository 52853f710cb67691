# SaCap-style: SynTIC's pairs and memory without optimisation, phrases by the encoder, cross-attention to its last feature map.
# Stores of its own, which the run makes: other tags, and 49 places of 1,280 numbers an image.
_base_ = ["_base_real.py"]
store = _base_.work_root + "/sacap/pairs"
synthesis = dict(
    store=store,
    tag_provider=dict(
        _delete_=True,
        type="CLIPTagProvider",
        vocabulary="configs/_base_/coco_classes.txt",  # below the checkout's root, where commands are typed
        prompts=["{}"],
        max_tags=3,
        min_score=0.0,
    ),
    grids=True,
)
photo_stores = [
    dict(store=_base_.work_root + "/sacap/coco_val2017", photos=_base_.photo_stores[0].photos),
    dict(store=_base_.work_root + "/sacap/flickr8k_dev", photos=_base_.photo_stores[1].photos),
]
auto_synthesize = True
model = dict(
    store=store,
    grids=True,
    data_preprocessor=dict(
        prompt=dict(template="{tags}", max_tags=3, min_score=0.0, order="score", drop=0.0, drop_all=0.0)
    ),
    necks=dict(
        _delete_=True,
        # tau belongs to the encoder: about 0.07 is what this one was trained with.
        memory=dict(type="TextMemoryProjection", temperature=0.07, exclude_self=False),
        projector=dict(**_base_.model.necks.projector, hidden_dim=512, hidden_layers=2, activation="relu"),
    ),
    head=dict(cross_attention=True, label_smoothing=0.0),
)
train_dataloader = dict(dataset=dict(store=store, pairs="default", image_choice="first", grids=True))
val_dataloader = dict(dataset=dict(store=store, grids=True))
test_dataloader = dict(dataset=dict(store=_base_.work_root + "/sacap/coco_val2017", grids=True))
