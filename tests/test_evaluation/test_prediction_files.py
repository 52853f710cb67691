import json

import pytest
from caption_samples import COCO, KARPATHY, write

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.prediction_files import join, read_predictions, read_references

RESULTS = [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": "cats"}]
OURS = {"metrics": {}, "images": {"a/7.jpg": {"references": ["A dog", "x"], "hypothesis": "a dog", "scores": {}}}}


def joined(predictions, references, split=None):
    return join(read_predictions(predictions), read_references(references, split))


@pytest.mark.parametrize(
    "content",
    [
        RESULTS,
        [{"image_id": "7", "caption": "a dog"}, {"image_id": "x/8.jpg", "caption": "cats", "score": 1}],
        '{"image": "photos/7.jpg", "caption": "a dog", "captions": ["a dog", "x"]}\n\n{"image": "8.jpg", "caption": "cats"}\n',
        {"images": {"7": {"hypothesis": "a dog", "references": []}, "8": {"hypothesis": "cats", "references": []}}},
        {"7": ["a dog"], "8": ["cats"]},  # pycocoevalcap's form
        {"7": "a dog", "8.jpg": "cats"},
        {"7": [{"image_id": 7, "caption": "a dog"}], "8": [{"caption": "cats"}]},
        json.dumps({"7": ["a dog"], "8": ["cats"]}, indent=1),
        json.dumps(RESULTS, indent=1),
    ],
)
def test_predictions_of_every_kind_meet_cocos_references(tmp_path, content):
    found = joined(write(tmp_path / "pred.json", content), write(tmp_path / "ref.json", COCO))
    assert found == {"7": "a dog", "8": "cats"}


def test_one_line_of_jsonl(tmp_path):
    found = read_predictions(write(tmp_path / "p.jsonl", '{"image": "7.jpg", "caption": "a dog"}'))
    assert found.captions == {"7.jpg": "a dog"}


def test_names_that_are_not_utf8_are_text(tmp_path):
    line = r'{"image": "p/caf\udce9.png", "caption": "a dog"}'
    assert read_predictions(write(tmp_path / "p.jsonl", line)).captions == {r"p/caf\xe9.png": "a dog"}
    with pytest.raises(UserError, match="ud800"):
        read_predictions(write(tmp_path / "q.jsonl", line.replace("dce9", "d800")))


@pytest.mark.parametrize(
    "content",
    [
        r'{"images": {"a.jpg": {"hypothesis": "\ud800", "references": ["a dog"]}}}',
        r'{"a.jpg": ["\ud800"]}',
        r'[{"image_id": "a.jpg", "caption": "\ud800"}]',
    ],
)
def test_half_a_character_is_no_caption(tmp_path, content):
    with pytest.raises(UserError, match="ud800"):
        read_predictions(write(tmp_path / "p.json", content))


@pytest.mark.parametrize("cocoid", [True, False])
def test_karpathys_test_split_by_any_of_its_names(tmp_path, cocoid):
    """Their own number of one image may be COCO's number of another."""
    content = json.loads(json.dumps(KARPATHY))
    if cocoid:
        for image, number in zip(content["images"], (3, 2, 1, 4)):
            image["cocoid"] = number
    content["images"].append({**content["images"][3], "imgid": 4, "filename": "9.jpg", "cocoid": 9})
    ref = write(tmp_path / "ref.json", content)
    assert read_references(ref).captions == {
        "val2014/3.jpg": ["picture 3", "image 3"],
        "val2014/9.jpg": ["picture 3", "image 3"],
    }
    number = 4 if cocoid else "3.jpg"
    pred = write(tmp_path / "p.json", [{"image_id": number, "caption": "x"}, {"image_id": 9, "caption": "y"}])
    assert joined(pred, ref) == {"val2014/3.jpg": "x", "val2014/9.jpg": "y"}
    assert set(read_references(ref, "train").captions) == {"val2014/0.jpg"}


def test_files_of_one_name_in_two_folders_keep_their_own_captions(tmp_path):
    content = json.loads(json.dumps(KARPATHY))
    content["images"].append({**content["images"][3], "imgid": 4, "filepath": "more", "sentences": [{"raw": "a cat"}]})
    ref = write(tmp_path / "ref.json", content)
    found = read_references(ref).captions
    assert found == {"val2014/3.jpg": ["picture 3", "image 3"], "more/3.jpg": ["a cat"]}
    pred = [{"image_id": "x/more/3.jpg", "caption": "x"}, {"image_id": "val2014/3.jpg", "caption": "y"}]
    assert joined(write(tmp_path / "p.json", pred), ref) == {"more/3.jpg": "x", "val2014/3.jpg": "y"}


def test_other_references(tmp_path):
    ref = write(tmp_path / "ref.csv", "image,caption\n7.jpg,A dog\n7.jpg,The dog\n8.jpg,Cats\n")
    assert read_references(ref).captions == {"7.jpg": ["A dog", "The dog"], "8.jpg": ["Cats"]}
    ours = write(tmp_path / "ours.json", OURS)
    assert joined(ours, ours) == {"a/7.jpg": "a dog"}


@pytest.mark.parametrize("indent", [None, 1])
def test_references_in_pycocoevalcaps_form(tmp_path, indent):
    content = {"7": ["A dog", "The dog"], "8": ["Cats"], "9": "A boat", "a/10.jpg": [{"caption": "A bus"}]}
    found = read_references(write(tmp_path / "ref.json", json.dumps(content, indent=indent)))
    assert found.captions == {"7": ["A dog", "The dog"], "8": ["Cats"], "9": ["A boat"], "a/10.jpg": ["A bus"]}


@pytest.mark.parametrize("read", [read_predictions, read_references])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "content",
    [
        {f"field {n}": n for n in range(5000)},
        {"7": ["a dog"], **{f"{n}": n for n in range(5000)}},
        {"7": ["a dog"], "8": ["x" * 1000]*999 + [7]},
        [{f"field {n}": n for n in range(5000)}],
        [{"image_id": ["x"] * 5000, "caption": "a dog"}],
        [{"image_id": "x" * 5000, "caption": ["a dog"] * 5000}],
        {"images": {"x" * 5000: {"hypothesis": 7}}},
    ],
)  # fmt: skip
def test_valid_json_of_another_kind_is_refused_in_a_few_words(tmp_path, read, indent, content):
    with pytest.raises(UserError) as error:
        read(write(tmp_path / "p.json", json.dumps(content, indent=indent)))
    said = str(error.value).removeprefix(str(tmp_path))
    assert "p.json" in said and len(said) < 600 and "not valid JSON" not in said


def test_json_that_ends_too_soon_is_named_where_it_ends(tmp_path):
    whole = json.dumps({"7": ["a dog"], "8": ["cats"]}, indent=1)
    for read in (read_predictions, read_references):
        with pytest.raises(UserError, match=r"line 7, column \d+: not valid JSON"):
            read(write(tmp_path / "p.json", whole[:-4]))


def test_a_short_name_that_two_share_is_nobodys(tmp_path):
    ref = write(tmp_path / "ref.csv", "image,caption\na/1.jpg,A dog\nb/1.jpg,Cats\n")
    with pytest.raises(UserError, match=r"1 predictions are for images that .*ref.csv lacks: 1.jpg"):
        joined(write(tmp_path / "p.json", [{"image_id": "1.jpg", "caption": "x"}]), ref)
    found = joined(
        write(tmp_path / "p.json", [{"image_id": "a/1.jpg", "caption": "x"}, {"image_id": "b/1.jpg", "caption": "y"}]),
        ref,
    )
    assert found == {"a/1.jpg": "x", "b/1.jpg": "y"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([*RESULTS, {"image_id": 7, "caption": "x"}], r"\[2\]: .*'7'.* \[0\]"),
        (RESULTS[:1], r"1 of 2 images of .*ref.json .* 8\."),
        ([*RESULTS, {"image_id": 9, "caption": "x"}], r"ref.json lacks: 9;"),
        ([*RESULTS, {"image_id": "7.jpg", "caption": "x"}], r"'7' and '7.jpg' are the same image of .*ref.json"),
        ([{"image_id": 7, "caption": None}], r"\[0\]: 'caption' of the image '7'"),
        ([{"id": 7, "caption": "x"}], r"\[0\]: no field 'image_id'"),
        (["a dog"], r"\[0\]"),
        ("[{", r"line 1, column 3"),
        ('{"image": "7.jpg", "caption": "x"}\n{"image', r"line 2"),
        ([], "no predictions"),
        ({"7": ["a dog", "the dog"], "8": ["cats"]}, "'7': 2 captions"),
        ({"7": ["a dog"], "8": []}, r"'8': expected a list of captions.*\[\]"),
        ('{"image": "8.jpg", "error": "truncated"}\n{"image": "7.jpg", "caption": "x"}', r"8 \(1 could not"),
    ],
)
def test_bad_predictions_are_named_with_the_place(tmp_path, content, place):
    with pytest.raises(UserError, match=place) as error:
        joined(write(tmp_path / "pred.json", content), write(tmp_path / "ref.json", COCO))
    assert "pred.json" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "split", "said"),
    [
        ("r.txt", "a dog\nA cat\n", None, "which image"),
        ("r.json", COCO, "val", "no split 'val'"),
        ("r.json", KARPATHY, "dev", "restval, test, train, val"),
        ("r.csv", "image,caption,split\na,b,x\nc,d,y\n", None, r"x, y: .*--split"),
    ],
)
def test_bad_references_are_named(tmp_path, name, content, split, said):
    with pytest.raises(UserError, match=said):
        read_references(write(tmp_path / name, content), split)


LONG = "a b " * 30_000


@pytest.mark.parametrize(
    ("read", "content", "place"),
    [
        (read_predictions, [*RESULTS[:1], {"image_id": 8, "caption": LONG}], r"\[1\]"),
        (read_predictions, {"images": {"7": {"hypothesis": LONG, "references": []}}}, "'7'"),
        (read_references, {"images": {"7": {"hypothesis": "a", "references": ["a", LONG]}}}, "'7'"),
        (read_references, {**COCO, "annotations": [{"id": 1, "image_id": 7, "caption": LONG}]}, r"annotations\[0\]"),
    ],
)
def test_a_text_too_long_for_a_caption_is_refused(tmp_path, read, content, place):
    with pytest.raises(UserError, match=rf"c\.json, .*{place}"):
        read(write(tmp_path / "c.json", content))
