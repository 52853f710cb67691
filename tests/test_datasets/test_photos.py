import json

import numpy as np
import pytest
from caption_samples import COCO, KARPATHY, write
from PIL import Image

from synthcap_mm.datasets.photos import CocoPhotos, CsvPhotos, KarpathyPhotos, PhotoFolder
from synthcap_mm.registry import DATASETS


def photo(path, size=(8, 6), colour=(200, 10, 10), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **kwargs)
    return path


def test_photo_folder(tmp_path):
    photo(tmp_path / "b.jpg")
    photo(tmp_path / "sub" / "a.PNG")
    photo(tmp_path / ".hidden" / "c.jpg")
    write(tmp_path / "notes.txt", "no photo")
    source = PhotoFolder(tmp_path, references={"b.jpg": ["A dog\n"]})
    assert source.keys == ["b.jpg", "sub/a.PNG"] and len(source) == 2
    assert source.references(0) == ["A dog"] and source.references(1) == []
    assert source.load(1).mode == "RGB" and source.load(1).size == (8, 6)
    assert "2 photos, 1 references" in source.describe()
    assert source.sha256() != PhotoFolder(tmp_path).sha256()
    saved = write(tmp_path / "references.json", {"b.jpg": ["A dog"]})
    assert PhotoFolder(tmp_path, references=saved).sha256() == source.sha256()


def test_photos_are_upright_and_rgb(tmp_path):
    image = Image.new("RGB", (40, 20), (250, 0, 0))
    image.paste((0, 0, 250), (0, 0, 20, 20))  # the left half is blue
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned a quarter clockwise: left becomes top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("LA", (5, 5)).save(tmp_path / "grey.png")
    source = PhotoFolder(tmp_path)
    assert source.load(source.keys.index("grey.png")).mode == "RGB"
    turned = np.asarray(source.load(source.keys.index("turned.jpg")))
    assert turned.shape == (40, 20, 3)
    assert turned[5, 10, 2] > 200 and turned[35, 10, 0] > 200


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_photo_that_does_not_decode_is_named(tmp_path, damage):
    path = photo(tmp_path / "x.jpg", size=(200, 200))
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"not a photo", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"x\.jpg does not decode"):
        PhotoFolder(tmp_path).load(0)


def test_photo_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        PhotoFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no photo in"):
        PhotoFolder(tmp_path)
    photo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"1 names of references are not in .*b\.jpg"):
        PhotoFolder(tmp_path, references={"b.jpg": ["A dog"]})
    with pytest.raises(ValueError, match="one string"):
        PhotoFolder(tmp_path, references={"a.jpg": "A dog"})


@pytest.fixture()
def coco(tmp_path):
    photo(tmp_path / "photos" / "7.jpg")
    photo(tmp_path / "photos" / "8.jpg", size=(3, 3))
    return write(tmp_path / "captions.json", COCO), tmp_path / "photos"


def test_coco_photos(coco, capsys):
    source = DATASETS.build({"type": "CocoPhotos", "ann_file": str(coco[0]), "image_root": str(coco[1])})
    assert source.keys == ["7.jpg", "8.jpg"]
    assert source.references(0) == ["A dog runs.", "A brown dog"]
    assert capsys.readouterr().out == ""  # pycocotools prints
    chosen = CocoPhotos(*coco, keys=["8.jpg"])
    assert chosen.keys == ["8.jpg"] and chosen.references(0) == ["Two cats"] and chosen.load(0).size == (3, 3)


def test_coco_photos_keys_from_files(coco, tmp_path):
    text, by_split = write(tmp_path / "k.txt", "8.jpg\n7.jpg\n"), write(tmp_path / "k.json", {"dev": ["7.jpg"]})
    assert CocoPhotos(*coco, keys=text).keys == ["8.jpg", "7.jpg"]
    assert CocoPhotos(*coco, keys=by_split, split="dev").keys == ["7.jpg"]
    with pytest.raises(ValueError, match="no split 'test'; it has dev"):
        CocoPhotos(*coco, keys=by_split, split="test")


def test_missing_photos_are_listed_at_once(coco):
    for name in ("7.jpg", "8.jpg"):
        (coco[1] / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 2 photos .*: 7\.jpg, 8\.jpg.*expected at .*photos.7\.jpg"):
        CocoPhotos(*coco)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"].append({"id": 1, "image_id": 7, "caption": "x"}), r"annotations\[\].id .* once: 1"),
        (lambda d: d["images"].append({"id": 7, "file_name": "9.jpg"}), r"images\[\].id .*once: 7"),
        (lambda d: d["images"].append({"id": 9, "file_name": "7.jpg"}), r"file_name .*once: 7\.jpg"),
        (
            lambda d: d["annotations"].append({"id": 9, "image_id": 1, "caption": "x"}),
            "1 captions are of unknown",
        ),
        (lambda d: d["annotations"].append({"id": 9, "image_id": 7, "caption": " "}), r"caption of 7\.jpg is empty"),
        (lambda d: d["images"].append({"id": 9}), r"images\[2\]: no field 'file_name'"),
        (lambda d: d.pop("images"), "no list 'images'"),
    ],
)
def test_damaged_coco_json(coco, change, said):
    data = json.loads(json.dumps(COCO))
    change(data)
    write(coco[0], data)
    with pytest.raises(ValueError, match=said) as error:
        CocoPhotos(*coco)
    assert str(coco[0]) in str(error.value)


def test_unknown_and_repeated_keys(coco):
    with pytest.raises(ValueError, match=r"1 names of keys are not in .*: 9\.jpg"):
        CocoPhotos(*coco, keys=["7.jpg", "9.jpg"])
    with pytest.raises(ValueError, match=r"more than once: 7\.jpg"):
        CocoPhotos(*coco, keys=["7.jpg", "7.jpg"])


def test_nocaps_photos_by_domain_and_without_captions(tmp_path):
    images = [
        {"id": n, "open_images_id": f"{n}", "file_name": f"{n}.jpg", "domain": domain}
        for n, domain in enumerate(["in-domain", "near-domain", "in-domain"])
    ]
    for n in range(3):
        photo(tmp_path / "val" / f"{n}.jpg")
    annotations = [{"id": n, "image_id": n, "caption": f"picture {n}"} for n in range(3)]
    path = write(tmp_path / "nocaps.json", {"images": images, "annotations": annotations})
    assert CocoPhotos(path, tmp_path / "val", domain="in-domain").keys == ["0.jpg", "2.jpg"]
    with pytest.raises(ValueError, match=r"no image of domain='out-domain'; it has in-domain, near-domain"):
        CocoPhotos(path, tmp_path / "val", domain="out-domain")
    info = CocoPhotos(write(tmp_path / "info.json", {"images": images}), tmp_path / "val")
    assert len(info) == 3 and info.references(0) == []


@pytest.mark.parametrize("nested", [True, False])
def test_karpathy_photos(tmp_path, nested):
    root = tmp_path / "photos"
    for n in range(4):
        photo(root / "val2014" / f"{n}.jpg" if nested else root / f"{n}.jpg", size=(n + 1, 1))
    path = write(tmp_path / "dataset_coco.json", KARPATHY)
    source = KarpathyPhotos(path, root, split="test")
    assert source.keys == ["3.jpg"] and source.references(0) == ["picture 3", "image 3"]
    assert source.load(0).size == (4, 1)
    assert KarpathyPhotos(path, root, split="train").keys == ["0.jpg", "1.jpg"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        KarpathyPhotos(path, root, split="dev")


def test_csv_photos(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\nx.jpg,A dog\nx.jpg,A puppy\ny.jpg,Cats\n")
    photo(tmp_path / "p" / "x.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 photos .* missing: y\.jpg"):
        CsvPhotos(path, tmp_path / "p")
    source = CsvPhotos(path, tmp_path / "p", keys=["x.jpg"])
    assert source.keys == ["x.jpg"] and source.references(0) == ["A dog", "A puppy"]
    with pytest.raises(ValueError, match="no image column"):
        CsvPhotos(write(tmp_path / "d.csv", "id,caption\n1,A dog\n"), tmp_path / "p")


@pytest.mark.real
def test_real_photos(real_data):
    coco = CocoPhotos(
        real_data / "coco_mini" / "annotations" / "captions_val2017.json", real_data / "coco_mini" / "val2017"
    )
    assert len(coco) == 79 and all(len(coco.references(i)) >= 5 for i in range(79))
    flickr = CsvPhotos(
        real_data / "captions" / "flickr8k_captions.csv",
        real_data / "flickr8k" / "images",
        keys=real_data / "flickr8k" / "splits.json",
        split="dev",
    )
    assert len(flickr) == 100 and all(len(flickr.references(i)) == 5 for i in range(100))
    assert coco.load(0).mode == flickr.load(99).mode == "RGB"
    with pytest.raises(FileNotFoundError, match="4921 of 5000 photos"):
        CocoPhotos(real_data / "captions" / "coco_captions_val2017.json", real_data / "coco_mini" / "val2017")


# ---- bad input says file, place and what is expected
@pytest.mark.parametrize(
    ("sentences", "said"),
    [(None, r"images\[0\]\.sentences: .*found NoneType"), (["a dog"], r"images\[0\]\.sentences\[0\]: .*found str")],
)
def test_sentences_of_another_kind_are_refused(tmp_path, sentences, said):
    from synthcap_mm.datasets.captions import CaptionFile
    from synthcap_mm.datasets.photos import KarpathyPhotos

    file = tmp_path / "dataset.json"
    entry = {"filename": "a.png", "split": "test", "sentences": sentences}
    file.write_text(json.dumps({"images": [entry]}))
    with pytest.raises(ValueError, match=said):
        CaptionFile(file, split="test").read()
    with pytest.raises(ValueError, match=said):
        KarpathyPhotos(file, tmp_path, "test")


def test_a_file_name_that_is_a_number_is_refused(tmp_path):
    from synthcap_mm.datasets.photos import CocoPhotos

    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": 5}], "annotations": []}))
    with pytest.raises(ValueError, match=r"captions\.json, images\[0\]\.file_name: expected text, found 5"):
        CocoPhotos(file, tmp_path)


def test_references_that_are_no_list_are_refused(tmp_path):
    from synthcap_mm.datasets.photos import PhotoFolder

    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "references.json").write_text(json.dumps({"a.png": 5}))
    with pytest.raises(ValueError, match=r"references\.json: the references of a\.png are of type int"):
        PhotoFolder(tmp_path, references=tmp_path / "references.json")


def test_half_a_character_is_refused_where_it_stands(tmp_path):
    from synthcap_mm.datasets.captions import CaptionFile

    file = tmp_path / "captions.json"
    file.write_text('[{"caption": "a dog"}, {"caption": "a \\ud83d cat"}]')
    with pytest.raises(ValueError, match=r"\[1\]\.caption: half of a surrogate pair, \\ud83d") as caught:
        CaptionFile(file).read()
    str(caught.value).encode()  # and the message can be printed


def test_blank_lines_before_the_header_count(tmp_path):
    from synthcap_mm.datasets.captions import CaptionFile

    file = tmp_path / "captions.csv"
    file.write_text("\n\nimage,caption\na.png,a dog\nb.png,a cat,too much\n")
    with pytest.raises(ValueError, match="line 5: 3 fields"):
        CaptionFile(file).read()
