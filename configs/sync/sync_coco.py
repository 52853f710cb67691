# SynTIC on COCO, trained on the pairs that SynC's curation chooses. Not run at this scale.
#   bash tools/dist_synthesize.sh configs/sync/sync_coco.py 8   with this config, so that the search's encoder sees the
#   bash tools/dist_curate.sh configs/sync/sync_coco.py 8       drawings too (docs/synthesis.md, A second encoder)
_base_ = ["../synthcap_coco.py"]
# SynC's encoders: timm/ViT-B-16-SigLIP2-256 searches, a multilingual MiniLM says how much alike two sentences are.
siglip2 = dict(type="OpenCLIPBackbone", model_name="ViT-B-16-SigLIP2-256", pretrained="webli")
sentences = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
synthesis = dict(other_encoders=dict(search=siglip2))
curation = dict(search_encoder="search", sentence_encoder=dict(type="SentenceEncoder", model=sentences))
inputs = [
    dict(
        hub=sentences,
        needed_by=sentences,
        how="SynC's sentence encoder; downloaded by itself where the Hugging Face hub can be reached, else give a local "
        "folder: curation.sentence_encoder.model=path/to/paraphrase-multilingual-MiniLM-L12-v2",
    ),
    *_base_.inputs,
    _base_.siglip2_input,
]
train_dataloader = dict(dataset=dict(pairs="curated", refined=True))
