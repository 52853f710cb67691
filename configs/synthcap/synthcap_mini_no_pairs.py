# SynTIC without the pseudo features: the caption's own feature is projected in training. The tags are still those of the
# drawings, so that one thing is changed; without them too it would be DeCap, projected in training as well.
_base_ = ["../synthcap_mini.py"]
model = dict(necks=dict(_delete_=True, text=dict(type="TextAsPrefix"), **_base_.model.necks))
train_dataloader = dict(dataset=dict(refined=False))
