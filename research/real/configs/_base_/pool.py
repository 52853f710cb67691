# The images among which captions find theirs: photos without captions, and Stable Diffusion images. Nothing is reported on them.
data_root = "{{$SYNTHCAP_REAL_DATA:../shared/real}}"
pool = dict(
    type="ConcatPhotos",
    with_references=False,
    sources=[
        dict(
            type="CsvPhotos",
            csv=data_root + "/captions/flickr8k_captions.csv",
            image_root=data_root + "/flickr8k/images",
            keys=data_root + "/flickr8k/splits.json",
            split="unlabelled",
        ),
        dict(type="PhotoFolder", root=data_root + "/coco_mini/train2017"),
        dict(type="PhotoFolder", root=data_root + "/coco_val2017_extra"),
        dict(type="PhotoFolder", root=data_root + "/sd_drawbench"),
    ],
)
