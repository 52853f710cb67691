# CLIP ViT-L/14 in the place of ViT-B/32: what a config of it changes. Its features are others, so its stores are too.
vit_l14 = dict(
    store="_vit-l14",  # behind the names of ViT-B/32's stores
    encoder=dict(model_name="ViT-L-14-quickgelu"),  # OpenAI's, trained with QuickGELU as all of theirs
    # The level belongs to the encoder. Assumed, and not measured: cosines of this CLIP are lower than ViT-B/32's.
    refine=dict(target_cosine=0.27),
)
