import json
from pathlib import Path

import pytest
from caption_samples import COCO, KARPATHY, write
from PIL import Image

from synthcap_mm.datasets.photos import CocoPhotos, CsvPhotos, KarpathyPhotos, PhotoFolder
from synthcap_mm.errors import UserError
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
    saved = write(tmp_path / "references.json", {"b.jpg": ["A dog"]})
    assert PhotoFolder(tmp_path, references=saved).references(0) == ["A dog"]


def test_a_photo_is_a_file(tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no photo")
    source = PhotoFolder(tmp_path)
    assert [Path(source.path(i)) for i in range(2)] == [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ValueError, match=r"b\.png"):
        source.load(1)


def test_photo_folder_errors(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        PhotoFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=str(tmp_path)):
        PhotoFolder(tmp_path)
    photo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"b\.jpg"):
        PhotoFolder(tmp_path, references={"b.jpg": ["A dog"]})
    for wrong in ("A dog", 5, ["A dog", " "], [".", "!"]):
        with pytest.raises(UserError, match=r"a\.jpg"):
            PhotoFolder(tmp_path, references={"a.jpg": wrong})
    assert PhotoFolder(tmp_path, references={"a.jpg": [".", "A dog"]}).references(0) == [".", "A dog"]


@pytest.fixture()
def coco(tmp_path):
    photo(tmp_path / "photos" / "7.jpg")
    photo(tmp_path / "photos" / "8.jpg", size=(3, 3))
    return write(tmp_path / "captions.json", COCO), tmp_path / "photos"


def test_coco_photos(coco):
    source = DATASETS.build({"type": "CocoPhotos", "ann_file": str(coco[0]), "image_root": str(coco[1])})
    assert source.keys == ["7.jpg", "8.jpg"]
    assert source.references(0) == ["A dog runs.", "A brown dog"]
    chosen = CocoPhotos(*coco, keys=["8.jpg"])
    assert chosen.keys == ["8.jpg"] and chosen.references(0) == ["Two cats"] and chosen.load(0).size == (3, 3)


def test_coco_photos_keys_from_files(coco, tmp_path):
    text, by_split = write(tmp_path / "k.txt", "8.jpg\n7.jpg\n"), write(tmp_path / "k.json", {"dev": ["7.jpg"]})
    assert CocoPhotos(*coco, keys=text).keys == ["8.jpg", "7.jpg"]
    assert CocoPhotos(*coco, keys=by_split, split="dev").keys == ["7.jpg"]
    with pytest.raises(UserError, match=r"test.*dev"):
        CocoPhotos(*coco, keys=by_split, split="test")


def test_missing_photos_are_listed_at_once(coco):
    for name in ("7.jpg", "8.jpg"):
        (coco[1] / name).unlink()
    with pytest.raises(UserError, match=r"2 of 2 .*7\.jpg, 8\.jpg"):
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
        (lambda d: d["images"].append({"id": 9, "file_name": 5}), r"images\[2\].file_name"),
        (lambda d: d.pop("images"), "no list 'images'"),
    ],
)
def test_damaged_coco_json(coco, change, said):
    data = json.loads(json.dumps(COCO))
    change(data)
    write(coco[0], data)
    with pytest.raises(UserError, match=said) as error:
        CocoPhotos(*coco)
    assert str(coco[0]) in str(error.value)


def test_names_outside_the_folder_of_photos_are_refused(coco, tmp_path):
    outside = photo(tmp_path / "outside.jpg")
    for name in ("../outside.jpg", str(outside)):
        annotations = {"images": [{"id": 1, "file_name": name}]}
        with pytest.raises(UserError, match=r"info\.json"):
            CocoPhotos(write(tmp_path / "info.json", annotations), coco[1])
        with pytest.raises(UserError, match=r"names\.csv"):
            CsvPhotos(write(tmp_path / "names.csv", f"image,caption\n{name},A dog\n"), coco[1])
        split = {"split": "val", "sentences": [{"raw": "A dog"}]}
        for fields in ({"filename": name}, {"filename": "outside.jpg", "filepath": name.rpartition("/")[0]}):
            with pytest.raises(UserError, match=r"split\.json"):
                KarpathyPhotos(write(tmp_path / "split.json", {"images": [{**split, **fields}]}), coco[1], "val")


def test_unknown_and_repeated_keys(coco):
    with pytest.raises(UserError, match=r"9\.jpg"):
        CocoPhotos(*coco, keys=["7.jpg", "9.jpg"])
    with pytest.raises(UserError, match=r"7\.jpg"):
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
    with pytest.raises(UserError, match=r"out-domain.*in-domain, near-domain"):
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
    with pytest.raises(UserError, match="dev"):
        KarpathyPhotos(path, root, split="dev")


def test_csv_photos(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\nx.jpg,A dog\nx.jpg,A puppy\ny.jpg,Cats\n")
    photo(tmp_path / "p" / "x.jpg")
    with pytest.raises(UserError, match=r"y\.jpg"):
        CsvPhotos(path, tmp_path / "p")
    source = CsvPhotos(path, tmp_path / "p", keys=["x.jpg"])
    assert source.keys == ["x.jpg"] and source.references(0) == ["A dog", "A puppy"]
    with pytest.raises(UserError, match=r"d\.csv"):
        CsvPhotos(write(tmp_path / "d.csv", "id,caption\n1,A dog\n"), tmp_path / "p")


# ---- several sources as one
def make_folder(root, names):
    root.mkdir()
    for shade, name in enumerate(names):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(root / name)
    (root / "captions.json").write_text(json.dumps({name: [f"this is {name}"] for name in names}))
    return {"type": "PhotoFolder", "root": str(root), "references": str(root / "captions.json")}


def test_keys_photos_and_references_follow_the_order_of_the_sources(tmp_path):
    parts = [make_folder(tmp_path / "b", ["2.png", "3.png"]), make_folder(tmp_path / "a", ["1.png"])]
    photos = DATASETS.build({"type": "ConcatPhotos", "sources": parts})
    assert photos.keys == ["2.png", "3.png", "1.png"]
    assert len(photos) == 3
    assert photos.load(1).getpixel((0, 0)) == (1, 0, 0)
    assert photos.references(2) == ["this is 1.png"]
    assert str(tmp_path / "a") in photos.describe() and str(tmp_path / "b") in photos.describe()


def test_a_pool_of_unlabelled_photos_has_no_captions(tmp_path):
    parts = [make_folder(tmp_path / "a", ["1.png"])]
    with_captions = DATASETS.build({"type": "ConcatPhotos", "sources": parts})
    without = DATASETS.build({"type": "ConcatPhotos", "sources": parts, "with_references": False})
    assert with_captions.references(0) and not without.references(0)


def test_a_key_in_two_sources_is_refused(tmp_path):
    parts = [make_folder(tmp_path / "a", ["1.png", "2.png"]), make_folder(tmp_path / "b", ["2.png"])]
    with pytest.raises(UserError, match=r"2\.png"):
        DATASETS.build({"type": "ConcatPhotos", "sources": parts})


def test_no_source_at_all_is_refused():
    with pytest.raises(UserError, match="ConcatPhotos"):
        DATASETS.build({"type": "ConcatPhotos", "sources": []})


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
    with pytest.raises(UserError, match="4921 of 5000 photos"):
        CocoPhotos(real_data / "captions" / "coco_captions_val2017.json", real_data / "coco_mini" / "val2017")
