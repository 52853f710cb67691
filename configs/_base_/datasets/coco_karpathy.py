# COCO's captions in Karpathy's splits; an image drawn for each of the training captions (train + restval: 566,747).
store = "data/coco/pairs"
test_photos = "data/coco/test"
annotations = "data/coco/annotations/dataset_coco.json"
photos = "data/coco"
detector_checkpoint = "weights/detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth"
synthesis = dict(
    store=store,
    captions=dict(type="CaptionFile", path=annotations, format="karpathy", split="train"),
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
        type="MMDetTagProvider", config="detr/detr_r50_8xb2-150e_coco.py", checkpoint=detector_checkpoint, batch_size=8
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
photo_stores = [
    dict(store=test_photos, photos=dict(type="KarpathyPhotos", ann_file=annotations, image_root=photos, split="test")),
]
# What cannot come by itself; named all at once when it is missing.
inputs = [
    dict(
        path=annotations,
        how="Karpathy's splits: dataset_coco.json from caption_datasets.zip, "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip; then: "
        "python tools/prepare_data.py coco --source DOWNLOADS",
    ),
    dict(
        # Not data/coco itself, which is there as soon as the annotations are.
        path=photos + "/val2014",
        needed_by=photos,
        how="COCO 2014 photos: val2014.zip from https://cocodataset.org/#download; then: "
        "python tools/prepare_data.py coco --source DOWNLOADS",
    ),
    dict(
        path=detector_checkpoint,
        how="mmdet's DETR weights: https://download.openmmlab.com/mmdetection/v3.0/detr/"
        "detr_r50_8xb2-150e_coco/detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth",
    ),
    dict(
        hub="timm/vit_base_patch32_clip_224.openai",
        needed_by="openai",
        how="OpenAI's CLIP weights; downloaded by themselves where the Hugging Face hub can be reached, else give a local "
        "file: synthesis.encoder.pretrained=ViT-B-32.pt",
    ),
    dict(
        hub="stable-diffusion-v1-5/stable-diffusion-v1-5",
        needed_by="stable-diffusion-v1-5/stable-diffusion-v1-5",
        how="Stable Diffusion v1.5; downloaded by itself where the Hugging Face hub can be reached, else give a local "
        "folder: synthesis.generator.model=path/to/stable-diffusion-v1-5",
    ),
    dict(module="mmdet", needed_by="MMDetTagProvider", how="the detector's library: pip install 'synthcap_mm[mmdet]'"),
    dict(
        module="diffusers",
        needed_by="DiffusersGenerator",
        how="the generator's library: pip install 'synthcap_mm[t2i]'",
    ),
]
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
