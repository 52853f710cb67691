# A captioner from your own text. Two lines to edit:
captions = "my.txt"  # your sentences: one a line, or csv, json, jsonl, COCO's or Karpathy's json
images = "photos/"  # a folder of photos of your domain, without captions; None: Stable Diffusion draws instead
#
#   python tools/synthesize.py configs/synthcap_custom.py
#   python tools/train.py configs/synthcap_custom.py
#
# With photos, each sentence is paired with the photo that the encoder finds nearest to it; without, the extra
# [t2i] and a GPU are wanted. Sentences alone choose the epoch: 2 % of them are held out.
# captions, images, store, vocabulary and epochs are variables: a config that derives from this one may set them alone
# (`_base_ = ["synthcap_custom.py"]`, `captions = "other.txt"`), and so does --cfg-options captions=other.txt store=data/other.
_base_ = ["_base_/models/synthcap.py", "_base_/schedules/adamw_10e.py", "_base_/default_runtime.py"]

store = "data/custom/pairs"
epochs = 12
vocabulary = None  # a file with the names of your domain's things, one a line: the encoder's tags go into the prompt
synthesis = dict(
    store=store,
    captions=dict(type="CaptionFile", path=captions, format="auto"),
    encoder=dict(type="OpenCLIPBackbone", model_name="ViT-B-32-quickgelu", pretrained="openai"),
    generator=(
        dict(type="RetrievalGenerator", pool=dict(type="PhotoFolder", root=images))
        if images
        else dict(
            type="DiffusersGenerator",
            model="stable-diffusion-v1-5/stable-diffusion-v1-5",
            dtype="float16",
            steps=20,
            guidance_scale=7.5,
        )
    ),
    # A softmax always prefers some name: names of other domains' things would be told of any photo. So none is the
    # default, and a name counts from a cosine on. Assumed: 0.24, between the cosines of this CLIP of a photo with
    # sentences that fit (about 0.3) and with any others (about 0.2).
    tag_provider=dict(type="CLIPTagProvider", vocabulary=vocabulary, min_cosine=0.24) if vocabulary else None,
    # Assumed, as in coco_karpathy.py.
    refine=dict(steps=10, lr=1e-3, temperature=0.01, pull=1.0, target_cosine=0.32, bank_size=4096),
    tokenizer=dict(kind="train", vocab_size=8192),  # your words, and no others
    holdout=0.02,
)
# tools/curate.py; train_dataloader.dataset.pairs='curated' trains on it. SynC's settings; see docs/curation.md.
curation = dict(steps=[dict(type="reassign", images=15, captions=2, keep=0.9)], refine=True)
inputs = [
    dict(path=captions, how="your sentences; set 'captions' at the top of the config"),
    dict(
        hub="timm/vit_base_patch32_clip_224.openai",
        needed_by="openai",
        how="OpenAI's CLIP weights; downloaded by themselves where the Hugging Face hub can be reached, else give a local "
        "file as pretrained",
    ),
]
if images:
    inputs.append(dict(path=images, how="your photos; set 'images' at the top of the config (None: Stable Diffusion)"))
else:
    inputs.append(
        dict(
            hub="stable-diffusion-v1-5/stable-diffusion-v1-5",
            needed_by="stable-diffusion-v1-5/stable-diffusion-v1-5",
            how="Stable Diffusion v1.5; downloaded by itself where the Hugging Face hub can be reached",
        )
    )
    inputs.append(
        dict(
            module="diffusers",
            needed_by="DiffusersGenerator",
            how="the generator's library: pip install 'synthcap_mm[t2i]'",
        )
    )

model = dict(
    store=store,
    data_preprocessor=dict(prompt=dict(max_tags=3, min_score=0.1) if vocabulary else None),
    necks=dict(projector=dict(prefix_length=4, input_scale=16.0)),
    head=dict(width=256),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
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
val_evaluator = dict(type="CaptionMetric")
# Hundreds to thousands of sentences rather than COCO's half a million: 500 give 8 steps an epoch, 5,000 give 77. So the
# warm-up ends with the first epoch, where COCO's 1,000 steps would outlast the training. Assumed: 30 epochs (the best on
# the held-out sentences is kept), and the rate, between GPT's 2.5e-4 and GPT-3 small's 6e-4, whose decoders are as wide
# and began from nothing, too.
train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, convert_to_iter_based=True, end=1),
    _base_.param_scheduler[1],
]
