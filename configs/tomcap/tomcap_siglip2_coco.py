# TOMCap on COCO with its encoder, SigLIP 2 L/16: as tomcap_coco.py, on features of its own. Not run at this scale.
_base_ = ["tomcap_coco.py"]
store = "data/coco/pairs_siglip2"
test_photos = "data/coco/test_siglip2"
unpaired = "data/coco/val_siglip2"
synthesis = dict(
    store=store,
    # Confirmed: SigLIP 2 L/16. Assumed: pictures of 256 pixels.
    encoder=dict(model_name="ViT-L-16-SigLIP2-256", pretrained="webli"),
    refine=None,
)
photo_stores = [
    dict(store=test_photos, photos=_base_.coco_test),
    dict(store=unpaired, photos={**_base_.coco_test, "split": "val"}),
]
inputs = [
    _base_.inputs[0],
    *_base_.coco_inputs,
    dict(
        hub="timm/ViT-L-16-SigLIP2-256",
        needed_by="webli",
        how="SigLIP 2 L/16; downloaded by itself where the Hugging Face hub can be reached, else give a local folder: "
        "synthesis.encoder.model_name=local-dir:FOLDER synthesis.encoder.pretrained=None",
    ),
    *_base_.synthesis_inputs,
]
model = dict(store=store, necks=dict(moments=dict(target=unpaired)))
train_dataloader = dict(dataset=dict(store=store))
val_dataloader = dict(dataset=dict(store=store))
test_dataloader = dict(dataset=dict(store=test_photos))
test_sets = [dict(name="coco", store=test_photos)]
