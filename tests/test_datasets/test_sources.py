import json
import logging

import numpy as np
import pytest
from PIL import Image

from synthcap_mm.datasets.sources import (
    Caption,
    CaptionFile,
    CocoPhotos,
    CsvPhotos,
    KarpathyPhotos,
    PhotoFolder,
)
from synthcap_mm.registry import DATASETS

COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog\nruns. "},
        {"id": 2, "image_id": 8, "caption": "Two cats"},
        {"id": 3, "image_id": 7, "caption": "A brown dog"},
    ],
}
KARPATHY = {
    "images": [
        {
            "imgid": n,
            "filename": f"{n}.jpg",
            "filepath": "val2014",
            "split": split,
            "sentences": [{"raw": f"picture {n}", "sentid": 10 * n}, {"raw": f"image {n}", "sentid": 10 * n + 1}],
        }
        for n, split in enumerate(["train", "restval", "val", "test"])
    ],
    "dataset": "coco",
}


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def photo(path, size=(8, 6), colour=(200, 10, 10), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **kwargs)
    return path


FORMATS = {
    "text": ("c.txt", "A dog\nTwo  cats \n", [("1", "A dog", None), ("2", "Two cats", None)]),
    "text without the last newline": ("c", "\ufeffA dog\r\nTwo cats", [("1", "A dog", None), ("2", "Two cats", None)]),
    "text with commas": ("c.txt", "A dog, running\nb\n", [("1", "A dog, running", None), ("2", "b", None)]),
    "flickr8k csv": (
        "captions.txt",
        'image,caption\nx.jpg,A dog .\nx.jpg,"A dog, ""Rex"""\ny.jpg,Cats\n',
        [("x.jpg#0", "A dog .", "x.jpg"), ("x.jpg#1", 'A dog, "Rex"', "x.jpg"), ("y.jpg#0", "Cats", "y.jpg")],
    ),
    "flickr30k csv": (
        "r.csv",
        "image_name| comment_number| comment\nx.jpg| 0| A dog\nx.jpg| 1| Cats\n",
        [("x.jpg#0", "A dog", "x.jpg"), ("x.jpg#1", "Cats", "x.jpg")],
    ),
    "csv with ids": ("c.csv", "id,caption\nq,A dog\nr,Cats\n", [("q", "A dog", None), ("r", "Cats", None)]),
    "csv of captions": ("c.csv", "caption\nA dog\nCats\n", [("2", "A dog", None), ("3", "Cats", None)]),
    "json": (
        "c.json",
        [{"caption": "A dog", "id": 5, "image_id": 9}, {"text": "Cats"}, "Birds"],
        [("5", "A dog", "9"), ("1", "Cats", None), ("2", "Birds", None)],
    ),
    "jsonl": (
        "c.jsonl",
        '{"text": "A dog", "group": "g"}\n{"text": "Cats"}\n',
        [("1", "A dog", "g"), ("2", "Cats", None)],
    ),
    "jsonl of one line": ("c.jsonl", '{"caption": "A dog"}\n', [("1", "A dog", None)]),
    "coco": ("c.json", COCO, [("1", "A dog runs.", "7"), ("2", "Two cats", "8"), ("3", "A brown dog", "7")]),
    "token": (
        "token.txt",
        "x.jpg#0\tA dog .\nx.jpg#1\tCats\n",
        [("x.jpg#0", "A dog .", "x.jpg"), ("x.jpg#1", "Cats", "x.jpg")],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_recognised(tmp_path, name):
    file, content, expected = FORMATS[name]
    source = CaptionFile(write(tmp_path / file, content))
    assert source.read() == [Caption(*row) for row in expected]
    assert f"{len(expected)} captions" in source.describe()


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", [0, 1]), ("val", [2]), ("test", [3]), ("restval", [1]), ("all", [0, 1, 2, 3])]
)
def test_karpathy_splits(tmp_path, split, numbers):
    captions = CaptionFile(write(tmp_path / "dataset_coco.json", KARPATHY), split=split).read()
    assert [c.group for c in captions[::2]] == [str(n) for n in numbers]
    assert captions[0] == Caption(str(10 * numbers[0]), f"picture {numbers[0]}", str(numbers[0]))


def test_a_given_format_wins(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\nx.jpg,A dog\n")
    assert [c.text for c in CaptionFile(path, format="text").read()] == ["image,caption", "x.jpg,A dog"]


@pytest.mark.parametrize(
    ("file", "content", "arguments", "said"),
    [
        ("c.txt", "", {}, "c.txt is empty"),
        ("c.txt", " \n\n", {}, "c.txt is empty"),
        ("c.txt", "A dog\n\nCats\n  \n", {}, "2 captions of .*c.txt are empty: line 2, line 4.*on_empty='skip'"),
        ("c.txt", "A dog\nA café\n".encode("latin-1"), {}, r"byte 0xe9 at offset 11 \(line 2\).*iconv -f ISO-8859-1"),
        ("c.txt", "A dog\nCats\n".encode("utf-16"), {}, "iconv -f UTF-16"),
        ("c.txt", b"\xef\xbb\xbfA dog\n\xe9", {}, r"offset 9 \(line 2\)"),
        ("c.bin", b"PK\0\0", {}, "NUL bytes"),
        ("c.json", {"data": []}, {}, "unknown format: a JSON object with the fields data. Recognised are COCO"),
        ("c.json", '[{"caption": "A dog"},\n {"caption" "Cats"}]', {}, "not valid JSON: line 2, column 13"),
        ("c.json", "caption: A dog\n", {}, "not valid JSON"),
        ("c.json", [{"caption": "A dog"}, {"image": 3}], {}, r"\[1\]: no field 'caption' or 'text' among image"),
        ("c.json", [{"caption": "A dog"}, 5], {}, r"\[1\]: expected an object or a string, found int"),
        ("c.json", [{"caption": ["A dog"]}], {}, r"\[0\].caption: expected text, found list"),
        ("c.json", [{"caption": None}], {}, r"empty: \[0\].caption"),
        ("c.jsonl", '{"text": "A dog"}\n{"text": \n', {}, "line 2: not valid JSON"),
        ("c.json", [{"id": 3, "text": "a"}, {"id": 3, "text": "b"}], {}, r"id '3' is given twice, at \[0\].text and"),
        ("c.csv", "id,caption\nq,a\nq,b\n", {}, "id 'q' is given twice, at line 2 and at line 3"),
        ("c.csv", "image,caption\nx.jpg,a, b\n", {}, "line 2: 3 fields where the header has 2.*quote captions"),
        ("c.csv", 'image,caption\nx.jpg,"a\nb"\ny.jpg\n', {}, "line 4: 1 fields"),
        ("c.csv", "image,words\nx.jpg,a\n", {}, "line 1: no caption column among image, words"),
        ("c.txt", "x.jpg#0\ta\nnonsense\n", {"format": "flickr_token"}, "line 2: expected 'name.jpg#0<tab>caption'"),
        ("c.txt", "A dog\n", {"format": "coco"}, "not valid JSON .format 'coco'.: line 1"),
        ("c.json", {"annotations": [{"id": 1, "image_id": 2, "bbox": []}]}, {}, "no field 'caption'; is this an inst"),
        ("c.json", {"annotations": [{"id": 1, "caption": "a"}]}, {}, r"annotations\[0\]: no field 'image_id'"),
        ("c.json", KARPATHY, {"split": "testing"}, "no split 'testing'; it has restval, test, train, val"),
        ("c.json", KARPATHY, {}, "set split='train'"),
        ("c.txt", "A dog\n", {"split": "train"}, "is for Karpathy files"),
        ("c.txt", "A dog\n", {"exclude_groups": ["x"]}, "does not say which group"),
        ("c.json", COCO, {"exclude_groups": ["7", "8"]}, "no caption is left .* 3 excluded"),
    ],
)
def test_bad_files_are_named(tmp_path, file, content, arguments, said):
    path = write(tmp_path / file, content)
    with pytest.raises(ValueError, match=said) as error:
        CaptionFile(path, **arguments).read()
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.txt does not exist"):
        CaptionFile(tmp_path / "no.txt").read()
    with pytest.raises(ValueError, match="is a folder"):
        CaptionFile(tmp_path).read()


@pytest.mark.parametrize(("arguments", "said"), [({"format": "xml"}, "known: auto, text"), ({"on_empty": "x"}, "skip")])
def test_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        CaptionFile("c.txt", **arguments)


@pytest.fixture()
def logged():
    """Messages of MMEngine's current logger."""
    from mmengine.logging import MMLogger

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_skipping_empty_captions_is_said(tmp_path, logged):
    source = CaptionFile(write(tmp_path / "c.txt", "A dog\n\nCats\n"), on_empty="skip")
    assert [c.id for c in source.read()] == ["1", "3"]  # ids stay those of the lines
    assert "1 captions" in logged[0] and "line 2" in logged[0]
    assert "1 empty ones skipped" in source.describe()


@pytest.mark.parametrize("given", ["list", "text", "json", "json by split"])
def test_groups_are_left_out(tmp_path, given):
    exclude = {
        "list": ["7", "99"],
        "text": write(tmp_path / "out.txt", "7\n\n99\n"),
        "json": write(tmp_path / "out.json", [7, 99]),
        "json by split": write(tmp_path / "split.json", {"val": [7], "test": ["99"]}),
    }[given]
    source = CaptionFile(write(tmp_path / "c.json", COCO), exclude_groups=exclude)
    assert source.read() == [Caption("2", "Two cats", "8")]
    assert "2 excluded (1 of 2 groups named occur)" in source.describe()


def test_excluding_nothing_is_said(tmp_path, logged):
    CaptionFile(write(tmp_path / "c.json", COCO), exclude_groups=["7.jpg"]).read()
    assert "none of the 1 exclude_groups" in logged[0] and "7.jpg" in logged[0]


def test_sha256_is_of_the_captions(tmp_path):
    plain = CaptionFile(write(tmp_path / "a.txt", "A dog\nCats\n")).sha256()
    assert plain == CaptionFile(write(tmp_path / "b.txt", "A  dog \r\nCats")).sha256()
    assert plain != CaptionFile(write(tmp_path / "c.txt", "A dog\nCat\n")).sha256()
    assert plain != CaptionFile(write(tmp_path / "d.jsonl", '{"text":"A dog","group":"g"}\n"Cats"\n')).sha256()


def test_what_is_read_cannot_be_changed_from_outside(tmp_path):
    source = CaptionFile(write(tmp_path / "a.txt", "A dog\n"))
    source.read().clear()
    assert len(source.read()) == 1


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
def test_real_caption_files(real_data):
    coco = CaptionFile(real_data / "captions" / "coco_captions_val2017.json")
    assert "(coco): 25014 captions of 5000 groups" in coco.describe()
    flickr = CaptionFile(
        real_data / "captions" / "flickr8k_captions.csv", exclude_groups=real_data / "flickr8k" / "splits.json"
    )
    assert "35455 captions of 7091 groups" in flickr.describe()
    assert "4500 excluded (900 of 900 groups named occur)" in flickr.describe()
    everything = CaptionFile(real_data / "captions" / "flickr8k_captions.csv").describe()
    assert "(csv): 39955 captions of 7991 groups" in everything


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
    from synthcap_mm.datasets.sources import CaptionFile, KarpathyPhotos

    file = tmp_path / "dataset.json"
    entry = {"filename": "a.png", "split": "test", "sentences": sentences}
    file.write_text(json.dumps({"images": [entry]}))
    with pytest.raises(ValueError, match=said):
        CaptionFile(file, split="test").read()
    with pytest.raises(ValueError, match=said):
        KarpathyPhotos(file, tmp_path, "test")


def test_a_file_name_that_is_a_number_is_refused(tmp_path):
    from synthcap_mm.datasets.sources import CocoPhotos

    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"images": [{"id": 1, "file_name": 5}], "annotations": []}))
    with pytest.raises(ValueError, match=r"captions\.json, images\[0\]\.file_name: expected text, found 5"):
        CocoPhotos(file, tmp_path)


def test_references_that_are_no_list_are_refused(tmp_path):
    from synthcap_mm.datasets.sources import PhotoFolder

    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "references.json").write_text(json.dumps({"a.png": 5}))
    with pytest.raises(ValueError, match=r"references\.json: the references of a\.png are of type int"):
        PhotoFolder(tmp_path, references=tmp_path / "references.json")


def test_half_a_character_is_refused_where_it_stands(tmp_path):
    from synthcap_mm.datasets.sources import CaptionFile

    file = tmp_path / "captions.json"
    file.write_text('[{"caption": "a dog"}, {"caption": "a \\ud83d cat"}]')
    with pytest.raises(ValueError, match=r"\[1\]\.caption: half of a surrogate pair, \\ud83d") as caught:
        CaptionFile(file).read()
    str(caught.value).encode()  # and the message can be printed


def test_blank_lines_before_the_header_count(tmp_path):
    from synthcap_mm.datasets.sources import CaptionFile

    file = tmp_path / "captions.csv"
    file.write_text("\n\nimage,caption\na.png,a dog\nb.png,a cat,too much\n")
    with pytest.raises(ValueError, match="line 5: 3 fields"):
        CaptionFile(file).read()
