# COCO's captions in Karpathy's splits; an image drawn for each of the training captions (train + restval: 566,747).
_base_ = ["files.py"]
store = "data/coco/pairs"
test_photos = "data/coco/test"
synthesis = dict(
    store=store,
    captions=_base_.coco_captions,
    # Confirmed: CLIP ViT-B/32 with OpenAI's weights, which were trained with QuickGELU.
    encoder=dict(type="OpenCLIPBackbone", model_name="ViT-B-32-quickgelu", pretrained="openai"),
    # Confirmed: Stable Diffusion v1.x. Assumed: steps, guidance and one image a caption, as PCM-Net and SynC have them.
    generator=dict(
        type="DiffusersGenerator",
        model="stable-diffusion-v1-5/stable-diffusion-v1-5",
        dtype="float16",
        steps=20,
        guidance_scale=7.5,
        height=512,
        width=512,
    ),
    images_per_caption=1,
    # Confirmed: objects are detected. Assumed: with DETR, whose classes are COCO's.
    tag_provider=dict(
        type="MMDetTagProvider",
        config="detr/detr_r50_8xb2-150e_coco.py",
        checkpoint=_base_.detector_checkpoint,
        batch_size=8,
    ),
    # Confirmed: pseudo features are optimised toward the real ones. Assumed, and not measured with this encoder: how
    # (a caption as the anchor), and where to stop: the cosine of a photo with its caption, about 0.3 for this CLIP.
    refine=dict(steps=10, lr=1e-3, temperature=0.01, pull=1.0, target_cosine=0.32, bank_size=4096),
    tokenizer=dict(kind="clip"),  # assumed: DeCap's, and it needs no download
    holdout=0.02,
    shard_size=1024,
    text_batch=512,
    image_batch=16,
)
# tools/curate.py; train_dataloader.dataset.pairs='curated' trains on it. SynC's settings; see docs/curation.md.
curation = dict(steps=[dict(type="reassign", images=15, captions=2, keep=0.9)], refine=True)
photo_stores = [dict(store=test_photos, photos=_base_.coco_test)]
# What cannot come by itself; named all at once when it is missing.
inputs = [*_base_.coco_inputs, _base_.clip_vit_b32_input, *_base_.synthesis_inputs]
# 8 GPUs x 16 = 128 captions a step.
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="SynthPairDataset", store=store, split="train", refined=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="SynthPairDataset", store=store, split="heldout"),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CaptionEvalDataset", store=test_photos),
)
val_evaluator = dict(type="CaptionMetric")
test_evaluator = dict(type="CaptionMetric")
