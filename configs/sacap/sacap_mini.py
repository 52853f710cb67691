# SaCap on the mini-world: the memory in training and test, phrases by CLIP as prompt, cross-attention to the encoder's grid.
_base_ = ["../synthcap_mini.py"]
store = "data/miniscenes/sacap/pairs"
test_photos = "data/miniscenes/sacap/test"
synthesis = dict(
    store=store,
    # SaCap's: the 3 phrases that lie nearest to the picture, each encoded as it is.
    tag_provider=dict(
        _delete_=True,
        type="CLIPTagProvider",
        vocabulary="{{ fileDirname }}/../_base_/miniscenes_nouns.txt",
        prompts=["{}"],
        max_tags=3,
        min_score=0.0,
    ),
    refine=None,  # SaCap's
    grids=True,
)
photo_stores = [
    dict(store=test_photos, photos=dict(type="MiniScenesPhotos", split="test", num=300), image_batch=64),
]
model = dict(
    store=store,
    grids=True,
    data_preprocessor=dict(
        prompt=dict(_delete_=True, template="{tags}", max_tags=3, min_score=0.0, order="score", drop=0.0, drop_all=0.0),
        max_prompt_length=20,
        max_length=30,
    ),
    necks=dict(
        memory=dict(temperature=0.01),  # SaCap's, in training and test
        # SaCap's MLP, in small: three layers, with ReLU between.
        projector=dict(hidden_dim=256, hidden_layers=2, activation="relu"),
    ),
    head=dict(cross_attention=True),
)
train_dataloader = dict(dataset=dict(store=store, refined=False, grids=True))
val_dataloader = dict(dataset=dict(store=store, grids=True))
test_dataloader = dict(dataset=dict(store=test_photos, grids=True))
