# SynTIC: pseudo features optimised toward real ones, re-expressed by a memory of caption features, a prefix, tags, GPT-2.
# Confirmed by the paper's abstract and the tables of its successors: the parts, and a decoder of 4 layers and 4 heads.
# All other values are assumed; each says where it comes from.
model = dict(
    type="SynthCaptioner",
    data_preprocessor=dict(
        type="CaptionPreprocessor",
        max_length=40,  # assumed: COCO's captions have 11 words on average, and hardly any more than 30
        # Assumed: template and masking are ViECap's; number, threshold and order are ours.
        prompt=dict(
            template="There are {tags} in the image.",
            max_tags=4,
            min_score=0.3,
            order="score_area",
            drop=0.2,
            drop_all=0.1,
        ),
    ),
    necks=dict(
        # Assumed: tau is DeCap's 1/100, CLIP's own temperature. Its memory is the store's captions.
        memory=dict(type="TextMemoryProjection", temperature=0.01, exclude_self=False),
        projector=dict(type="PrefixProjector", prefix_length=10, kind="mlp"),  # assumed: ClipCap's MLP
    ),
    head=dict(
        type="GPT2CaptionHead",
        width=768,
        layers=4,
        heads=4,
        positions=128,
        dropout=0.1,  # GPT-2's
        label_smoothing=0.1,  # assumed
        generation=dict(num_beams=5),
    ),  # assumed: the field's usual beam
)
