# IFCap-style on the mini-world: captions retrieved with a noisy query, fused with the feature; entities are names frequent in them.
_base_ = ["../synthcap_mini.py"]
# What counts as an entity: names in a file, for want of a part-of-speech tagger (README).
vocabulary = "{{ fileDirname }}/../_base_/miniscenes_nouns.txt"
# Names that at least 5 of the 9 captions nearest to the image have: its public code, for COCO.
frequent = dict(type="RetrievedEntities", store=_base_.store, vocabulary=vocabulary, k=9)
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
        # As measured (research/); its public code has k=5.
        fusion=dict(type="RetrievalFusion", k=9, noise_variance=0.04),
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(
    dataset=dict(pairs=None, refined=False, tags=dict(type="CaptionEntities", vocabulary=vocabulary))
)
val_dataloader = dict(dataset=dict(tags=frequent))
test_dataloader = dict(dataset=dict(tags=frequent))
