# SynTIC with another way to optimise pseudo features, in the same store: a table of the same pairs with features of its own.
#   --cfg-options curation.name=far train_dataloader.dataset.pairs=far curation.refine.target_cosine=0.85
_base_ = ["../../../configs/synthcap_mini.py"]
curation = dict(
    _delete_=True,
    steps=[dict(type="clip_score", keep=1.0)],  # all pairs
    name="refined_as",
    refine=_base_.synthesis.refine,
    recall=False,
)
train_dataloader = dict(dataset=dict(pairs="refined_as"))
