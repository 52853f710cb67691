# SynTIC: pseudo images by retrieval, refined, projected onto the captions in training and inference, with tags.
_base_ = ["_base_real.py"]
model = dict(
    data_preprocessor=dict(
        prompt=dict(
            template="There are {tags} in the image.",
            max_tags=3,
            min_score=0.3,
            order="score_area",
            drop=0.2,
            drop_all=0.1,
        )
    ),
    necks=dict(
        _delete_=True,
        # The level is the cosine of real pairs with each other (Flickr8k's, the lower of the two): pairs further apart
        # are moved up to it, the others are left as they are. In the forward: a switch between variants, not a store.
        refine=dict(
            type="PseudoFeatureOptimizer",
            mode="per_sample",
            temperature=0.07,
            steps=10,
            lr=0.02,
            pull=1.0,
            target_cosine=0.39,
        ),
        # tau belongs to the encoder: about 0.07 is what this one was trained with.
        memory=dict(type="TextMemoryProjection", temperature=0.07, exclude_self=False),
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(dataset=dict(pairs="default", image_choice="first"))
