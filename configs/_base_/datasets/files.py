# Where each data set's files belong (tools/prepare_data.py puts them there), and how to get them. In one place, since a
# cross-domain config trains on one set and is tested on another. See docs/data.md.
coco_annotations = "data/coco/annotations/dataset_coco.json"
coco_photos = "data/coco"
coco_captions = dict(type="CaptionFile", path=coco_annotations, format="karpathy", split="train")
coco_test = dict(type="KarpathyPhotos", ann_file=coco_annotations, image_root=coco_photos, split="test")
coco_inputs = [
    dict(
        path=coco_annotations,
        how="Karpathy's splits: dataset_coco.json from caption_datasets.zip, "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip; then: "
        "python tools/prepare_data.py coco --source DOWNLOADS",
    ),
    dict(
        # Not data/coco itself, which is there as soon as the annotations are.
        path=coco_photos + "/val2014",
        needed_by=coco_photos,
        how="COCO 2014 photos: val2014.zip from https://cocodataset.org/#download; then: "
        "python tools/prepare_data.py coco --source DOWNLOADS",
    ),
]
flickr30k_annotations = "data/flickr30k/annotations/dataset_flickr30k.json"
flickr30k_photos = "data/flickr30k/images"
flickr30k_captions = dict(type="CaptionFile", path=flickr30k_annotations, format="karpathy", split="train")
flickr30k_test = dict(type="KarpathyPhotos", ann_file=flickr30k_annotations, image_root=flickr30k_photos, split="test")
flickr30k_inputs = [
    dict(
        path=flickr30k_annotations,
        how="Karpathy's splits: dataset_flickr30k.json from caption_datasets.zip, "
        "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip; then: "
        "python tools/prepare_data.py flickr30k --source DOWNLOADS",
    ),
    dict(
        path=flickr30k_photos,
        how="Flickr30k's photos, on request: https://shannon.cs.illinois.edu/DenotationGraph/; then: "
        "python tools/prepare_data.py flickr30k --source DOWNLOADS",
    ),
]
nocaps_annotations = "data/nocaps/annotations/nocaps_val_4500_captions.json"
nocaps_photos = "data/nocaps/val"
nocaps_test = dict(type="CocoPhotos", ann_file=nocaps_annotations, image_root=nocaps_photos, domain=None)
nocaps_inputs = [
    dict(
        path=nocaps_annotations,
        how="https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json; then: "
        "python tools/prepare_data.py nocaps --source DOWNLOADS",
    ),
    dict(
        path=nocaps_photos,
        how="NoCaps' validation photos, by the field coco_url of that json (https://nocaps.org/download); then: "
        "python tools/prepare_data.py nocaps --source DOWNLOADS",
    ),
]
# The frozen models' weights and libraries.
detector_checkpoint = "weights/detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth"
clip_how = (
    "OpenAI's CLIP weights; downloaded by themselves where the Hugging Face hub can be reached, else give a local file: "
    "synthesis.encoder.pretrained="
)
clip_vit_b32_input = dict(
    hub="timm/vit_base_patch32_clip_224.openai",
    needed_by="openai",
    how=clip_how + "ViT-B-32.pt synthesis.encoder.quick_gelu=True",
)
clip_vit_l14_input = dict(
    hub="timm/vit_large_patch14_clip_224.openai",
    needed_by="openai",
    how=clip_how + "ViT-L-14.pt synthesis.encoder.quick_gelu=True",
)
# Encoders beside the store's own.
siglip2_input = dict(
    hub="timm/ViT-B-16-SigLIP2-256",
    needed_by="ViT-B-16-SigLIP2-256",
    how="SigLIP 2's weights and tokenizer; downloaded by themselves where the Hugging Face hub can be reached, else give "
    "a local file and folder: synthesis.other_encoders.search.pretrained=open_clip_model.safetensors "
    "synthesis.other_encoders.search.tokenizer=FOLDER",
)
clip_rn50x64_input = dict(
    hub="timm/resnet50x64_clip.openai",
    needed_by="RN50x64-quickgelu",
    how="OpenAI's CLIP RN50x64; downloaded by itself where the Hugging Face hub can be reached, else give a local file: "
    "synthesis.other_encoders.retrieval.pretrained=RN50x64.pt synthesis.other_encoders.retrieval.quick_gelu=True",
)
synthesis_inputs = [
    dict(
        path=detector_checkpoint,
        how="mmdet's DETR weights: https://download.openmmlab.com/mmdetection/v3.0/detr/"
        "detr_r50_8xb2-150e_coco/detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth",
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
