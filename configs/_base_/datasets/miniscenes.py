# The embedded default: a small world that needs no download (docs/miniscenes.md).
store = "data/miniscenes/pairs"
test_photos = "data/miniscenes/test"
val_photos = "data/miniscenes/val"
synthesis = dict(
    store=store,
    captions=dict(type="MiniScenesCaptions", num=4000),
    encoder=dict(type="MiniCLIP"),
    generator=dict(type="MiniScenesPainter", drop=0.1, recolour=0.1, miscount=0.1),
    tag_provider=dict(type="MiniScenesTagger"),
    refine=dict(steps=20, lr=0.02, temperature=0.01, pull=1.0, target_cosine=0.5, bank_size=1024),
    tokenizer=dict(kind="train", vocab_size=2000),
    holdout=0.05,  # 2 % of 4,000 captions would leave 40 scenes to choose an epoch by
    image_batch=64,
)
# tools/curate.py; train_dataloader.dataset.pairs='curated' trains on it. SynC's settings; see docs/curation.md.
curation = dict(steps=[dict(type="reassign", images=15, captions=2, keep=0.9)], refine=True)
photo_stores = [
    dict(store=test_photos, photos=dict(type="MiniScenesPhotos", split="test", num=300), image_batch=64),
    dict(store=val_photos, photos=dict(type="MiniScenesPhotos", split="val", num=300), image_batch=64),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="SynthPairDataset", store=store, split="train", refined=True),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="SynthPairDataset", store=store, split="heldout"),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CaptionEvalDataset", store=test_photos),
)
# CaptionMetric, and which objects a caption names wrongly or misses.
val_evaluator = dict(type="CaptionMetric", metrics=["BLEU", "ROUGE_L", "CIDEr", "length", "ObjectErrors"])
test_evaluator = val_evaluator
