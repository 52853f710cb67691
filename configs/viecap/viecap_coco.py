# ViECap-style on COCO: CapDec, and the things that the caption names as a hard prompt; by CLIP at inference. Not run at this scale.
_base_ = ["../synthcap_coco.py"]
# The words by which captions call COCO's persons.
aliases = dict(person=["man", "woman", "boy", "girl", "child", "guy", "lady", "player"])
# What counts as an entity: names in a file, for want of a part-of-speech tagger (README).
vocabulary = "{{ fileDirname }}/../_base_/coco_classes.txt"
by_clip = dict(type="CLIPTagProvider", vocabulary=vocabulary)
model = dict(
    data_preprocessor=dict(
        # Its public code: the template, 3 entities above 0.2, and 40 % of them masked.
        prompt=dict(
            template="There are {tags} in image.", max_tags=3, min_score=0.2, order="score", drop=0.4, drop_all=0.0
        ),
    ),
    necks=dict(
        _delete_=True,
        text=dict(type="TextAsPrefix"),
        noise=dict(type="NoiseInjection", variance=0.016),  # CapDec's
        projector=_base_.model.necks.projector,
    ),
)
train_dataloader = dict(
    dataset=dict(pairs=None, refined=False, tags=dict(type="CaptionEntities", vocabulary=vocabulary, aliases=aliases))
)
val_dataloader = dict(dataset=dict(tags=by_clip))
test_dataloader = dict(dataset=dict(tags=by_clip))
