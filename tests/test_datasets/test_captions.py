import hashlib
import logging

import pytest
from caption_samples import COCO, KARPATHY, write

from synthcap_mm.datasets.caption_formats import LONGEST_CAPTION
from synthcap_mm.datasets.captions import Caption, CaptionFile
from synthcap_mm.errors import UserError


def of(sentence, occurrence=1):
    """The id of a sentence that its file does not name."""
    return hashlib.blake2b(sentence.encode()).hexdigest()[:16] + ("" if occurrence == 1 else f"-{occurrence}")


DOG, CATS = (of("A dog"), "A dog", None), (of("Cats"), "Cats", None)
FORMATS = {
    "text": ("c.txt", "A dog\nTwo  cats \n", [DOG, (of("Two cats"), "Two cats", None)]),
    "text without the last newline": ("c", "\ufeffA dog\r\nA dog", [DOG, (of("A dog", 2), "A dog", None)]),
    "text with commas": ("c.txt", "A dog, running\nCats\n", [(of("A dog, running"), "A dog, running", None), CATS]),
    "flickr8k csv": (
        "captions.txt", 'image,caption\nx.jpg,A dog .\nx.jpg,"A dog, ""Rex"""\ny.jpg,Cats\n',
        [("x.jpg#0", "A dog .", "x.jpg"), ("x.jpg#1", 'A dog, "Rex"', "x.jpg"), ("y.jpg#0", "Cats", "y.jpg")],
    ),
    "flickr30k csv": (
        "r.csv", "image_name| comment_number| comment\nx.jpg| 0| A dog\nx.jpg| 1| Cats\n",
        [("x.jpg#0", "A dog", "x.jpg"), ("x.jpg#1", "Cats", "x.jpg")],
    ),
    "csv with ids": ("c.csv", "id,caption\nq,A dog\nr,Cats\n", [("q", "A dog", None), ("r", "Cats", None)]),
    "csv with quotes that are not csv's": (
        "c.csv", 'image,caption\nx.jpg,A 12" pipe\ny.jpg,Cats\n',
        [("x.jpg#0", 'A 12" pipe', "x.jpg"), ("y.jpg#0", "Cats", "y.jpg")],
    ),
    "csv with a caption on two lines": (
        "c.csv", 'image,caption\nx.jpg,"A ""big""\ndog, running"\ny.jpg,Cats\n',
        [("x.jpg#0", 'A "big" dog, running', "x.jpg"), ("y.jpg#0", "Cats", "y.jpg")],
    ),
    "csv with a first caption on two lines": (
        "c.csv", 'caption,image\n"A dog\n\nruns",x.jpg\nCats,y.jpg\n',
        [("x.jpg#0", "A dog runs", "x.jpg"), ("y.jpg#0", "Cats", "y.jpg")],
    ),
    "tsv": (
        "c.tsv", 'image\tcaption\nx.jpg\t"A ""big"" dog"\ny.jpg\tA dog, "Rex"\n',
        [("x.jpg#0", 'A "big" dog', "x.jpg"), ("y.jpg#0", 'A dog, "Rex"', "y.jpg")],
    ),
    "csv of captions": ("c.csv", "caption\nA dog\nCats\n", [DOG, CATS]),
    "json": (
        "c.json", [{"caption": "A dog", "id": 5, "image_id": 9}, {"text": "Cats"}, "A dog"], [("5", "A dog", "9"), CATS, DOG],
    ),
    "jsonl": ("c.jsonl", '{"text": "A dog", "group": "g"}\n{"text": "Cats"}\n', [(of("A dog"), "A dog", "g"), CATS]),
    "jsonl of one line": ("c.jsonl", '{"caption": "A dog"}\n', [DOG]),
    "coco": ("c.json", COCO, [("1", "A dog runs.", "7"), ("2", "Two cats", "8"), ("3", "A brown dog", "7")]),
    "nocaps": (
        "c.json",
        {
            "images": [{"id": 0, "open_images_id": "a", "file_name": "a.jpg", "domain": "in-domain"},
                       {"id": 1, "open_images_id": "b", "file_name": "b.jpg", "domain": "out-domain"}],
            "annotations": [{"id": 5, "image_id": 1, "caption": "A dog"}, {"id": 6, "image_id": 0, "caption": "Cats"}],
        },
        [("5", "A dog", "1"), ("6", "Cats", "0")],
    ),
    "prompts of drawn images": (
        "metadata.jsonl", '{"file_name": "1.jpg", "prompt": "A dog"}\n', [(of("A dog"), "A dog", "1.jpg")],
    ),
    "token": (
        "token.txt", "x.jpg#0\tA dog .\nx.jpg#1\tCats\n\n",
        [("x.jpg#0", "A dog .", "x.jpg"), ("x.jpg#1", "Cats", "x.jpg")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_recognised(tmp_path, name):
    file, content, expected = FORMATS[name]
    source = CaptionFile(write(tmp_path / file, content))
    assert source.read() == [Caption(*row) for row in expected]
    assert f"{len(expected)} captions" in source.describe()


def test_ids_of_sentences_stay_when_others_come_and_go(tmp_path):
    path = write(tmp_path / "c.txt", "A dog\nCats\nA dog\n")
    before = {c.id: c.text for c in CaptionFile(path).read()}
    assert list(before) == [of("A dog"), of("Cats"), of("A dog", 2)]
    write(path, "Birds\nA dog\n\nCats\nA dog\nA dog\n")
    after = {c.id: c.text for c in CaptionFile(path, on_empty="skip").read()}
    assert set(after) - set(before) == {of("Birds"), of("A dog", 3)} and before.items() <= after.items()


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", [0, 1]), ("val", [2]), ("test", [3]), ("restval", [1]), ("all", [0, 1, 2, 3])]
)
def test_karpathy_splits(tmp_path, split, numbers):
    source = CaptionFile(write(tmp_path / "dataset_coco.json", KARPATHY), split=split)
    captions = source.read()
    assert [c.group for c in captions[::2]] == [str(n) for n in numbers]
    assert captions[0] == Caption(str(10 * numbers[0]), f"picture {numbers[0]}", str(numbers[0]))
    assert "the file has train 2 captions of 1 groups; restval 2 captions of 1 groups" in source.describe()


def test_nocaps_domains_are_splits(tmp_path):
    path = write(tmp_path / "nocaps.json", FORMATS["nocaps"][1])
    assert "out-domain 1 captions of 1 groups; in-domain 1 captions" in CaptionFile(path).describe()
    assert [c.text for c in CaptionFile(path, split="in-domain").read()] == ["Cats"]
    with pytest.raises(UserError, match="near-domain"):
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
    with pytest.raises(UserError, match="split="):
        CaptionFile(path).read()
    assert [c.text for c in CaptionFile(path, split="train").read()] == ["A dog"]
    assert len(CaptionFile(path, split="all").read()) == 2


def test_a_given_format_wins(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\nx.jpg,A dog\n")
    assert [c.text for c in CaptionFile(path, format="text").read()] == ["image,caption", "x.jpg,A dog"]


INFO = {"images": [{"id": 1, "open_images_id": "a"}]}


@pytest.mark.parametrize(
    ("file", "content", "arguments", "place"),
    [
        ("c.txt", " \n\n", {}, "is empty"),
        ("c.txt", "A dog\n\nCats\n  \n", {}, "line 2, line 4.*on_empty"),
        ("c.txt", "A dog\nA café\n".encode("latin-1"), {}, "line 2: not UTF-8"),
        ("c.txt", "A dog\nCats\n".encode("utf-16"), {}, "line 1: not UTF-8"),
        ("c.txt", "A dog\n.\nCats\n\U0001f415 \U0001f600\n...\n", {}, "3 captions.*line 2, line 4, line 5.*on_empty"),
        ("c.json", [{"caption": "A dog"}, {"caption": "!"}], {}, r"\[1\].*on_empty"),
        ("c.bin", b"PK\0\0", {}, "line 1: not UTF-8.*NUL bytes"),
        ("c.txt", "<!DOCTYPE html><html>404</html>", {}, "web page"),
        ("c.json", {"data": []}, {}, "the fields data"),
        ("c.json", '[{"caption": "A dog"},\n {"caption" "Cats"}]', {}, "line 2, column 13"),
        ("c.json", "caption: A dog\n", {}, "not valid JSON"),
        ("c.json", [{"caption": "A dog"}, {"image": 3}], {}, r"\[1\]: no field 'caption'"),
        ("c.json", [{"caption": "A dog"}, 5], {}, r"\[1\]"),
        ("c.json", [{"caption": ["A dog"]}], {}, r"\[0\]: expected text, found list"),
        ("c.json", [{"caption": None}], {}, r"no words: \[0\]"),
        ("c.json", '[{"caption": "a dog"}, {"caption": "a \\ud83d cat"}]', {}, r"\[1\]: \\ud83d"),
        ("c.jsonl", '{"text": "A dog"}\n{"text": \n', {}, "line 2"),
        ("c.json", [{"id": 3, "text": "a"}, {"id": 3, "text": "b"}], {}, r"\[1\]: the id '3' .*\[0\]"),
        ("c.csv", "image,caption\nx.jpg,a, b\n", {}, "line 2: 3 fields"),
        ("c.csv", '\n\nimage,caption\nx.jpg,"a\nb"\ny.jpg\n', {}, "line 6: 1 fields"),
        ("c.csv", "image,words\nx.jpg,a\n", {}, "line 2: no field 'caption'"),
        # quotes that would swallow rows, or be learnt
        ("c.csv", 'image,caption\nx.jpg,Cats\n\nx.jpg,"A dog\ny.jpg,Cats\n', {}, 'line 4: .*"A dog'),
        ("c.csv", 'image,caption\nx.jpg,Cats\nx.jpg,"A dog\ny.jpg,"Stop" sign\n', {}, 'line 3: .*"A dog'),
        ("c.csv", 'image,caption\nx.jpg,Cats\nx.jpg,"A dog\ny.jpg,12"\nz.jpg,Cats\n', {}, 'line 3: .*"A dog'),
        ("c.csv", 'caption,image,split\n"A dog,x.jpg,a\n12",y.jpg,a\n', {}, 'line 2: .*"A dog'),
        ("c.csv", 'caption\nCats\n"A dog\nBirds\n12"\n', {}, 'line 3: .*"A dog'),
        ("c.csv", 'image,caption\nx.jpg,"A big, red dog\ny.jpg,a board of 6"\nz.jpg,Cats\n', {}, 'line 2: .*"A big'),
        ("c.csv", 'image,caption\nx.jpg,"A dog\n' + "y.jpg,Cats\n" * 20_000, {}, 'line 2: .*"A dog'),
        ("c.tsv", 'image\tcaption\nx.jpg\t"Stop" sign\n', {}, 'line 2: .*"Stop'),
        ("c.tsv", 'image\tcaption\nx.jpg\t"A dog\ny.jpg\t12"\n', {}, 'line 2: .*"A dog'),
        ("c.csv", 'image,caption\nx.jpg,Cats\ny.jpg,"A \\"big\\" dog"\n', {}, "line 3: .*big"),
        ("c.csv", 'image,caption\nx.jpg,"\\"Cats\\""\ny.jpg,A dog\n', {}, "line 2: .*Cats"),
        ("c.csv", 'image,caption\nx.jpg,A \\"big\\" dog\n', {}, "line 2: .*big"),
        ("c.csv", 'image,caption\nx.jpg, "A dog"\n', {}, 'line 2: .* "A dog"'),
        ("c.txt", "x.jpg#0\ta\nnonsense\ny.jpg#0\tb\n", {}, "line 2: expected 'name.jpg#0<tab>caption'"),
        ("c.txt", "x.jpg\tA dog\ny.jpg\tCats\n", {}, "line 1.*format='text'"),
        ("c.txt", "A dog\n", {"format": "coco"}, "line 1, column 1"),
        ("c.json", {"annotations": [{"id": 1, "image_id": 2, "bbox": []}]}, {}, "instances file"),
        ("c.json", {"annotations": [{"id": 1, "caption": "a"}]}, {}, r"annotations\[0\]: no field 'image_id'"),
        ("c.json", {"images": [{"sentences": None, "split": "x"}]}, {"split": "x"}, r"images\[0\].sentences"),
        ("c.json", {"images": [{"sentences": ["a"], "split": "x"}]}, {"split": "x"}, r"images\[0\].sentences\[0\]"),
        ("c.json", KARPATHY, {"split": "testing"}, "restval, test, train, val"),
        ("c.json", KARPATHY, {}, "set split="),
        ("c.txt", "A dog\n", {"split": "train"}, "split='train'"),
        ("c.json", {"images": [{"id": 1, "file_name": "1.jpg"}]}, {}, "no captions"),
        ("c.json", INFO, {}, "no captions"),
        (
            "c.json",
            {**INFO, "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]},
            {},
            r"annotations\[0\].caption: the image 2",
        ),
        ("c.txt", "A dog\n", {"exclude_groups": ["x"]}, "exclude_groups"),
        ("c.json", COCO, {"exclude_groups": ["7", "8"]}, "no caption is left"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path, file, content, arguments, place):
    path = write(tmp_path / file, content)
    with pytest.raises(UserError, match=place) as error:
        CaptionFile(path, **arguments).read()
    assert str(path) in str(error.value)
    str(error.value).encode()  # it can be printed


@pytest.mark.parametrize("arguments", [{"format": "xml"}, {"on_empty": "x"}])
def test_bad_arguments(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        CaptionFile("c.txt", **arguments)


def test_missing_file(tmp_path):
    for path in (tmp_path / "no.txt", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            CaptionFile(path).read()


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


def test_skipping_empty_captions_is_logged(tmp_path, logged):
    source = CaptionFile(write(tmp_path / "c.txt", "A dog\n\nCats\n.\n"), on_empty="skip")
    assert [c.text for c in source.read()] == ["A dog", "Cats"]
    assert "2 captions" in logged[0] and "line 2, line 4" in logged[0]
    assert "2 without words skipped" in source.describe()


def test_html_entities_are_said_once_with_how_many(tmp_path, logged):
    lines = ["Tom &amp; Jerry", "a man&#39;s dog", "AT&T; R&D", "fish & chips", "&#x27;Cats&#x27;", "a &nosuch; dog"]
    source = CaptionFile(write(tmp_path / "c.txt", "\n".join(lines)))
    assert [caption.text for caption in source.read()] == lines
    source.describe()
    (said,) = logged
    assert said.startswith("3 of 6 captions") and "'Tom &amp; Jerry'" in said and "'Tom & Jerry'" in said


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


def test_excluding_nothing_is_logged(tmp_path, logged):
    CaptionFile(write(tmp_path / "c.json", COCO), exclude_groups=["7.jpg"]).read()
    assert "exclude_groups" in logged[0] and "7.jpg" in logged[0]


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


@pytest.mark.parametrize(("name", "line"), [("c.txt", "{}\n"), ("c.jsonl", '{{"caption": "{}"}}\n')])
def test_a_text_too_long_for_a_caption_is_refused(tmp_path, name, line):
    longest = "a b " * (LONGEST_CAPTION // 4)
    assert len(CaptionFile(write(tmp_path / name, line.format(longest))).read()) == 1
    with pytest.raises(UserError, match=rf"{name}, line 2: "):
        CaptionFile(write(tmp_path / name, line.format("A dog") + line.format(f"{longest}c"))).read()
