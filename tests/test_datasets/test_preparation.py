import json

import pytest

from synthcap_mm.datasets.preparation import RECIPES, prepare
from synthcap_mm.errors import UserError

JPEG = b"\xff\xd8\xff\xe0 a photo"
#: The recipes with the numbers of the small files below.
SMALL = {
    "coco": RECIPES["coco"]._replace(
        images={"train": 2, "val": 1, "test": 1}, captions={"train": 4, "val": 2, "test": 2}
    ),
    "flickr30k": RECIPES["flickr30k"]._replace(
        images={"train": 2, "val": 1, "test": 1}, captions={"train": 4, "val": 2, "test": 2}
    ),
    "nocaps": RECIPES["nocaps"]._replace(
        images={"in-domain": 2, "out-domain": 1}, captions={"in-domain": 2, "out-domain": 1}
    ),
}


def karpathy(coco=True):
    images = []
    for n, split in enumerate(["train", "restval" if coco else "train", "val", "test"]):
        name = f"COCO_val2014_{n}.jpg" if coco else f"{n}.jpg"
        sentences = [{"raw": f"sentence {m}", "sentid": 2 * n + m} for m in range(2)]
        image = {"imgid": n, "filename": name, "split": split, "sentences": sentences}
        images.append({**image, "filepath": "val2014"} if coco else image)
    return {"images": images}


def nocaps():
    images = [
        {"id": n, "open_images_id": f"o{n}", "file_name": f"o{n}.jpg", "domain": "out-domain" if n else "in-domain"}
        for n in (0, 1)
    ]
    images.append({"id": 2, "open_images_id": "o2", "file_name": "o2.jpg", "domain": "in-domain"})
    return {
        "images": images,
        "annotations": [{"id": n, "image_id": n, "caption": f"sentence {n}"} for n in range(3)],
    }


@pytest.fixture()
def downloads(tmp_path):
    """A folder of downloads: files as they are unpacked, some of them in folders."""
    folder = tmp_path / "downloads"
    (folder / "photos" / "deep").mkdir(parents=True)
    (folder / "dataset_coco.json").write_text(json.dumps(karpathy()))
    (folder / "photos" / "dataset_flickr30k.json").write_text(json.dumps(karpathy(coco=False)))
    (folder / "nocaps_val_4500_captions.json").write_text(json.dumps(nocaps()))
    names = (
        [f"COCO_val2014_{n}.jpg" for n in range(4)] + [f"{n}.jpg" for n in range(4)] + [f"o{n}.jpg" for n in range(3)]
    )
    for name in names:
        (folder / "photos" / "deep" / name).write_bytes(JPEG)
    return folder


def layout(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


EXPECTED = [
    "coco/annotations/dataset_coco.json",
    "coco/val2014/COCO_val2014_2.jpg",
    "coco/val2014/COCO_val2014_3.jpg",
    "flickr30k/annotations/dataset_flickr30k.json",
    "flickr30k/images/2.jpg",
    "flickr30k/images/3.jpg",
    "nocaps/annotations/nocaps_val_4500_captions.json",
    "nocaps/val/o0.jpg",
    "nocaps/val/o1.jpg",
    "nocaps/val/o2.jpg",
]


@pytest.mark.parametrize("copy", [False, True])
def test_layout_by_links_or_copies_and_once_only(downloads, tmp_path, copy):
    out = tmp_path / "data"
    said = prepare(list(SMALL), out, [downloads], copy=copy, recipes=SMALL)
    assert layout(out) == EXPECTED
    assert all(path.is_symlink() != copy for path in out.rglob("*.jpg"))
    assert "train 2 / val 1 / test 1 images; 2 photos; 3 files placed" in said[0]
    before = {path: path.lstat().st_mtime_ns for path in out.rglob("*")}
    said = prepare(list(SMALL), out, [downloads], copy=copy, recipes=SMALL)
    assert "2 photos; 0 files placed" in said[0]
    assert before == {path: path.lstat().st_mtime_ns for path in out.rglob("*")}
    assert "3 photos; 0 files placed" in prepare(["nocaps"], out, recipes=SMALL)[0]  # only checked


def test_what_is_laid_out_is_what_the_sources_read(downloads, tmp_path):
    from synthcap_mm.datasets.captions import CaptionFile
    from synthcap_mm.datasets.photos import CocoPhotos, KarpathyPhotos

    out = tmp_path / "data"
    prepare(list(SMALL), out, [downloads], recipes=SMALL)
    assert len(CaptionFile(out / "coco/annotations/dataset_coco.json", split="train").read()) == 4
    assert KarpathyPhotos(out / "coco/annotations/dataset_coco.json", out / "coco", "test").keys == [
        "COCO_val2014_3.jpg"
    ]
    flickr = KarpathyPhotos(out / "flickr30k/annotations/dataset_flickr30k.json", out / "flickr30k/images", "val")
    assert flickr.keys == ["2.jpg"]
    assert len(CocoPhotos(out / "nocaps/annotations/nocaps_val_4500_captions.json", out / "nocaps/val")) == 3


@pytest.mark.parametrize("field", ["filepath", "filename"])
@pytest.mark.parametrize("value", ["../../victim", "/victim", "a\\\\..\\\\victim", "val\n", 5, None, ["x"], {}, ""])
@pytest.mark.parametrize("copy", [False, True])
def test_annotations_name_files_of_the_layout_only(downloads, tmp_path, field, value, copy):
    annotations = karpathy()
    annotations["images"][2][field] = value
    (downloads / "dataset_coco.json").write_text(json.dumps(annotations))
    (downloads / "victim").write_bytes(JPEG)
    victim = tmp_path / "victim" / "COCO_val2014_2.jpg"
    victim.parent.mkdir()
    victim.write_text("mine")
    try:
        prepare(["coco"], tmp_path / "data", [downloads], copy=copy, recipes=SMALL)
    except UserError as error:
        assert "dataset_coco.json" in str(error) or "missing" in str(error)
    assert victim.read_text() == "mine" and not victim.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} <= {"downloads", "victim", "data"}


def test_photos_of_the_training_split_on_request(downloads, tmp_path):
    prepare(["coco"], tmp_path / "data", [downloads], train_photos=True, recipes=SMALL)
    assert len(layout(tmp_path / "data")) == 5


def test_all_that_is_missing_is_listed_at_once(downloads, tmp_path):
    (downloads / "dataset_coco.json").unlink()
    for n in range(4):
        (downloads / "photos" / "deep" / f"COCO_val2014_{n}.jpg").unlink()
    (downloads / "photos" / "deep" / "o1.jpg").unlink()
    with pytest.raises(UserError) as error:
        prepare(list(SMALL), tmp_path / "data", [downloads], recipes=SMALL)
    said = str(error.value)
    assert said.startswith("3 thing(s) are missing or wrong") and "unpack" not in said
    assert "dataset_coco.json is missing: in caption_datasets.zip" in said
    assert "val2014.zip" in said
    assert "1 of 3 photos (val) are missing: o1.jpg: each photo's address" in said
    assert layout(tmp_path) == [f"downloads/{name}" for name in layout(downloads)]  # nothing was placed


def test_wrong_numbers_are_named(downloads, tmp_path):
    with pytest.raises(UserError) as error:
        prepare(["coco", "flickr30k", "nocaps"], tmp_path / "data", [downloads])
    said = str(error.value)
    for words in ("113,287", "566,747", "5,000", "29,000", "1,014", "1,000", "2,938"):
        assert words in said, said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "content",
    ["", '{"images": [', '{"images": [{"split": "val"}]}', '{"images": [{"split": "val", "sentences": []}]}'],
)
def test_damaged_annotations_are_named(downloads, tmp_path, content):
    (downloads / "dataset_coco.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset_coco\.json"):
        prepare(["coco"], tmp_path / "data", [downloads], recipes=SMALL)


def test_photos_that_are_none_are_named_and_do_not_stay(downloads, tmp_path):
    (downloads / "photos" / "deep" / "COCO_val2014_2.jpg").write_text("<html>404</html>")
    for _ in range(2):
        with pytest.raises(UserError, match=r"COCO_val2014_2\.jpg"):
            prepare(["coco"], tmp_path / "data", [downloads], recipes=SMALL)
    (downloads / "photos" / "deep" / "COCO_val2014_2.jpg").write_bytes(JPEG)
    assert "2 photos; 3 files placed" in prepare(["coco"], tmp_path / "data", [downloads], recipes=SMALL)[0]


def test_broken_links_are_made_anew_and_stopped_copies_leave_nothing(downloads, tmp_path, monkeypatch):
    out = tmp_path / "data"
    prepare(["coco"], out, [downloads], recipes=SMALL)
    (out / "coco/val2014/COCO_val2014_3.jpg").unlink()
    (out / "coco/val2014/COCO_val2014_3.jpg").symlink_to("nowhere")

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(["coco"], out, [downloads], copy=True, recipes=SMALL)
    assert not list(out.rglob("*.tmp"))
    prepare(["coco"], out, [downloads], recipes=SMALL)
    assert (out / "coco/val2014/COCO_val2014_3.jpg").read_bytes() == JPEG


def test_a_missing_folder_and_packed_archives_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        prepare(["coco"], tmp_path / "data", [tmp_path / "nowhere"])
    (tmp_path / "val2014.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"val2014\.zip"):
        prepare(["coco"], tmp_path / "data", [tmp_path])
