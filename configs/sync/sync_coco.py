# SynTIC on COCO, trained on the pairs that SynC's curation chooses. Not run at this scale.
#   bash tools/dist_curate.sh configs/sync/sync_coco.py 8   after dist_synthesize.sh
_base_ = ["../synthcap_coco.py"]
# What says how much alike two sentences are: the encoder of SynC's public code, by name or as a local folder.
sentences = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
curation = dict(sentence_encoder=dict(type="SentenceEncoder", model=sentences))
inputs = [
    dict(
        hub=sentences,
        needed_by=sentences,
        how="SynC's sentence encoder; downloaded by itself where the Hugging Face hub can be reached, else give a local "
        "folder: curation.sentence_encoder.model=path/to/paraphrase-multilingual-MiniLM-L12-v2",
    ),
    *_base_.inputs,
]
train_dataloader = dict(dataset=dict(pairs="curated", refined=True))
