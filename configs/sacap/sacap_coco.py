# SaCap on COCO: the memory in training and test, phrases by CLIP as prompt, GPT-2 with cross-attention to CLIP's grid.
# What is said to be SaCap's is its public code's. Its rephrased captions are not here (README). Not run at this scale.
_base_ = ["../synthcap_coco.py"]
store = "data/coco/sacap/pairs"
test_photos = "data/coco/sacap/test"
# What may be named; SaCap's public code has a list of its own, data/object_phrases.json (one phrase a line here).
phrases = "{{ fileDirname }}/../_base_/coco_classes.txt"
decoder = "weights/gpt2"  # a folder: config.json, model.safetensors, tokenizer.json
inputs = [
    dict(
        path=decoder,
        how="GPT-2: hf download openai-community/gpt2 config.json model.safetensors tokenizer.json --local-dir weights/gpt2",
    ),
    *_base_.coco_inputs,
    _base_.clip_vit_b32_input,
    *_base_.synthesis_inputs[1:],  # no detector
]
synthesis = dict(
    store=store,
    # SaCap's: the 3 phrases that lie nearest to the picture, each encoded as it is.
    tag_provider=dict(
        _delete_=True, type="CLIPTagProvider", vocabulary=phrases, prompts=["{}"], max_tags=3, min_score=0.0
    ),
    refine=None,  # SaCap's
    # 49 places of 768 numbers, 75 kB a picture: 43 GB for COCO's 566,747.
    grids=True,
    image_batch=30,  # SaCap's
)
photo_stores = [dict(store=test_photos, photos=_base_.coco_test)]
model = dict(
    store=store,
    grids=True,
    data_preprocessor=dict(
        # GPT-2's tokens, in the place of the store's.
        tokenizer=decoder + "/tokenizer.json",
        # SaCap's: 3 phrases with commas between, no template, none dropped, 20 tokens; captions of 30 tokens.
        prompt=dict(_delete_=True, template="{tags}", max_tags=3, min_score=0.0, order="score", drop=0.0, drop_all=0.0),
        max_prompt_length=20,
        max_length=30,
    ),
    necks=dict(
        memory=dict(temperature=0.01),  # SaCap's, in training and test
        # SaCap's: 512 → 2048 → 2048 → 10 × 768.
        projector=dict(prefix_length=10, kind="mlp", hidden_dim=2048, hidden_layers=2, activation="relu"),
    ),
    # SaCap's: GPT-2 small, all of which learns; no label smoothing in effect; 5 beams.
    head=dict(pretrained=decoder, cross_attention=True, label_smoothing=0.0, generation=dict(num_beams=5)),
)
# SaCap's: batches of 128 (8 GPUs x 16), AdamW at 1e-5, 10 epochs, 1,000 steps of warm-up, linear decay (those of _base_),
# and no limit on gradients.
optim_wrapper = dict(clip_grad=None)
train_dataloader = dict(dataset=dict(store=store, refined=False, grids=True))
val_dataloader = dict(dataset=dict(store=store, grids=True))
test_dataloader = dict(dataset=dict(store=test_photos, grids=True))
test_sets = [dict(name="coco", store=test_photos)]
