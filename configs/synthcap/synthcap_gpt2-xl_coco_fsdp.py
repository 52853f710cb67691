# SynTIC on COCO with GPT-2 XL (1.6 billion parameters, pretrained) as the decoder, in shards over 8 GPUs (FSDP).
#   bash tools/dist_train.sh configs/synthcap/synthcap_gpt2-xl_coco_fsdp.py 8
# The pairs are those of ../synthcap_coco.py. Not run at this scale, nor on a GPU (docs/large_decoders.md).
_base_ = ["../synthcap_coco.py"]
decoder = "weights/gpt2-xl"  # a folder: config.json, model.safetensors, tokenizer.json
inputs = [
    dict(
        path=decoder,
        how="GPT-2 XL: hf download openai-community/gpt2-xl config.json model.safetensors tokenizer.json "
        "--local-dir weights/gpt2-xl",
    ),
    *_base_.inputs,
]
model = dict(
    # GPT-2's tokens, in the place of the store's.
    data_preprocessor=dict(tokenizer=decoder + "/tokenizer.json"),
    head=dict(pretrained=decoder),
)
runner_type = "FlexibleRunner"
# Weights, gradients and Adam's moments in shards, in float32; computed in bfloat16 by the optimizer wrapper's autocast,
# which leaves the memory's projection in float32 (FSDP's mixed precision would not).
strategy = dict(type="DecoderFSDPStrategy")
# Assumed: a pretrained decoder needs fewer epochs than one from nothing.
train_cfg = dict(max_epochs=5)
# A checkpoint is 19 GB (computed: weights and two moments in float32).
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
