# TOMCap on COCO: moment matching, captions retrieved as prompt and context, a pretrained GPT-2 with LoRA and cross-attention.
# On SynTIC's store, so with CLIP ViT-B/32 (tomcap_siglip2_coco.py has TOMCap's encoder). Not run at this scale.
_base_ = ["../synthcap_coco.py"]
# The validation photos of Karpathy's splits, without their captions. python tools/encode_images.py makes it.
unpaired = "data/coco/val"
photo_stores = [
    *_base_.photo_stores,
    dict(
        store=unpaired,
        photos={**_base_.coco_test, "split": "val"},
    ),
]
decoder = "weights/gpt2"  # a folder: config.json, model.safetensors, tokenizer.json
inputs = [
    dict(
        path=decoder,
        how="GPT-2: hf download openai-community/gpt2 config.json model.safetensors tokenizer.json --local-dir weights/gpt2",
    ),
    *_base_.inputs,
]
model = dict(
    # GPT-2's tokens, in the place of the store's.
    data_preprocessor=dict(prompt=None, tokenizer=decoder + "/tokenizer.json"),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        moments=dict(type="MomentMatching", start="captions", target=unpaired, spread=True),
        # TOMCap retrieves 4 of 16 million captions: those of COCO, CC3M and CC12M. `memory` takes another store's.
        retrieved=dict(
            type="RetrievedCaptions",
            k=4,
            prompt="Similar images have the following captions: {captions} Write a caption:",
            noise_variance=0.016,  # assumed: CapDec's
        ),
        projector=_base_.model.necks.projector,
    ),
    # Rank 32 is TOMCap's. Without label smoothing: plain cross-entropy.
    head=dict(pretrained=decoder, cross_attention=True, lora=dict(rank=32), label_smoothing=0.0),
)
train_dataloader = dict(dataset=dict(pairs=None, refined=False))
# Assumed: ten times the rate at which whole decoders learn here, since adapters begin at zero.
optim_wrapper = dict(optimizer=dict(lr=1e-4))
