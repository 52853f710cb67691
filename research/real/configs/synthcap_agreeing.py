# SynTIC on pairs that are reassigned by the encoder and by what the tags name (docs/curation.md), as sync_tags_mini.py.
_base_ = ["synthcap.py"]
entities = dict(
    type="CaptionEntities",
    vocabulary="configs/_base_/coco_classes.txt",  # below the checkout's root, where commands are typed
    # The words by which captions call COCO's persons; those of ifcap_coco.py, and Flickr8k's.
    aliases=dict(person=["man", "woman", "boy", "girl", "child", "kid", "guy", "lady", "player", "baby"]),
)
# min_score is the prompt's, so that a name counts if it would be told.
curation = dict(
    steps=[dict(**_base_.curation.steps[0], agreement=dict(entities=entities, min_score=0.3))],
    name="agreeing",
)
train_dataloader = dict(dataset=dict(pairs="agreeing"))
