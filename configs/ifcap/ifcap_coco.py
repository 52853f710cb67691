# IFCap-style on COCO: captions retrieved with a noisy query, fused with the feature; entities frequent in them. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
# It retrieves with CLIP RN50x64, and captions with ViT-B/32.
rn50x64 = dict(type="OpenCLIPBackbone", model_name="RN50x64-quickgelu", pretrained="openai")
synthesis = dict(other_encoders=dict(retrieval=rn50x64))
inputs = [*_base_.inputs, _base_.clip_rn50x64_input]
# The words by which captions call COCO's persons.
aliases = dict(person=["man", "woman", "boy", "girl", "child", "guy", "lady", "player"])
# What counts as an entity: names in a file, for want of a part-of-speech tagger (README).
vocabulary = "{{ fileDirname }}/../_base_/coco_classes.txt"
# The numbers below are those of its public code, for COCO, where nothing else is said.
# Names that at least 5 of the 9 captions nearest to the image have.
frequent = dict(
    type="RetrievedEntities",
    store=_base_.store,
    vocabulary=vocabulary,
    k=9,
    aliases=aliases,
    search_encoder="retrieval",
)
model = dict(
    data_preprocessor=dict(
        prompt=dict(
            template="There are {tags} in image.", max_tags=4, min_score=0.55, order="score", drop=0.4, drop_all=0.0
        ),  # assumed: the number; masking and template are ViECap's
    ),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        noise=dict(type="NoiseInjection", variance=0.016),  # CapDec's, as ViECap has it
        fusion=dict(type="RetrievalFusion", k=5, noise_variance=0.04, encoder="retrieval"),
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(
    batch_size=10,  # 8 GPUs x 10 = 80 captions a step
    dataset=dict(pairs=None, refined=False, tags=dict(type="CaptionEntities", vocabulary=vocabulary, aliases=aliases)),
)
val_dataloader = dict(dataset=dict(tags=frequent))
test_dataloader = dict(dataset=dict(tags=frequent))
# Its schedule: 5 epochs at twice SynTIC's rate, a longer warm-up, no weight decay.
train_cfg = dict(max_epochs=5)
optim_wrapper = dict(optimizer=dict(lr=2e-5, weight_decay=0.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, end=5000),
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=False),  # to the end of the training
]
