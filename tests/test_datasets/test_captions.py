import logging

import pytest
from caption_samples import COCO, KARPATHY, write

from synthcap_mm.datasets.captions import Caption, CaptionFile

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
    "nocaps": (
        "c.json",
        {
            "images": [
                {"id": 0, "open_images_id": "a", "file_name": "a.jpg", "domain": "in-domain"},
                {"id": 1, "open_images_id": "b", "file_name": "b.jpg", "domain": "out-domain"},
            ],
            "annotations": [{"id": 5, "image_id": 1, "caption": "A dog"}, {"id": 6, "image_id": 0, "caption": "Cats"}],
        },
        [("5", "A dog", "1"), ("6", "Cats", "0")],
    ),
    "prompts of drawn images": (
        "metadata.jsonl",
        '{"file_name": "1.jpg", "prompt": "A dog"}\n',
        [("1", "A dog", "1.jpg")],
    ),
    "token with an empty line": ("token.txt", "x.jpg#0\tA dog\n\n", [("x.jpg#0", "A dog", "x.jpg")]),
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


def test_what_is_found_is_said_by_split(tmp_path):
    said = CaptionFile(write(tmp_path / "dataset_coco.json", KARPATHY), split="train").describe()
    assert "(karpathy): 4 captions of 2 groups, split train" in said
    assert "the file has train 2 captions of 1 groups; restval 2 captions of 1 groups; val 2 captions" in said


def test_nocaps_domains_are_splits(tmp_path):
    path = write(tmp_path / "nocaps.json", FORMATS["nocaps"][1])
    assert "out-domain 1 captions of 1 groups; in-domain 1 captions" in CaptionFile(path).describe()
    assert [c.text for c in CaptionFile(path, split="in-domain").read()] == ["Cats"]
    with pytest.raises(ValueError, match="no split 'near-domain'; it has in-domain, out-domain"):
        CaptionFile(path, split="near-domain").read()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.csv", "image,caption,split\nx.jpg,A dog,train\ny.jpg,Cats,test\n"),
        ("c.jsonl", '{"caption": "A dog", "split": "train"}\n{"caption": "Cats", "split": "test"}\n'),
    ],
)
def test_a_field_split_has_to_be_chosen_from(tmp_path, file, content):
    path = write(tmp_path / file, content)
    with pytest.raises(ValueError, match="has the splits train, test: set split="):
        CaptionFile(path).read()
    assert [c.text for c in CaptionFile(path, split="train").read()] == ["A dog"]
    assert len(CaptionFile(path, split="all").read()) == 2


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
        ("c.txt", "A dog\n", {"split": "train"}, "split='train' is for files with splits"),
        ("c.txt", "x.jpg#0\ta\nnonsense\ny.jpg#0\tb\n", {}, "line 2: expected 'name.jpg#0<tab>caption', found 'nons"),
        ("c.txt", "x.jpg\tA dog\ny.jpg\tCats\n", {}, "line 1: columns divided by tabs, without a header"),
        ("c.json", "<!DOCTYPE html><html>404</html>", {}, "line 1: this is a web page"),
        ("c.json", b"PK\x03\x04\0\0", {}, "a zip archive"),
        ("c.json", b"\x1f\x8b\x08", {}, "a gzip archive"),
        ("c.txt", b"\xff\xd8\xff\xe0", {}, "a JPEG photo"),
        ("c.txt", b"\x89PNG\r\n", {}, "a PNG picture"),
        ("c.json", "version https://git-lfs.github.com/spec/v1\noid x\n", {}, "git lfs pull"),
        ("c.json", {"images": [{"id": 1, "file_name": "1.jpg"}]}, {}, "names 1 images, but holds no captions"),
        (
            "c.json",
            {"images": [{"id": 1, "open_images_id": "a"}]},
            {},
            "1 images of NoCaps, but no captions.*test set's",
        ),
        (
            "c.json",
            {"images": [{"id": 1, "open_images_id": "a"}], "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]},
            {},
            r"annotations\[0\].caption: the image 2 is not among",
        ),
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
