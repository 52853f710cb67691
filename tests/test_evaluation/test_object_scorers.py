import json

import pytest

from synthcap_mm.errors import UserError
from synthcap_mm.evaluation import CHAIR, CaptionSet, ObjectHallucination, object_scorers, score_set
from synthcap_mm.evaluation.object_names import ObjectNames, read_synonyms, synonyms_sha256

LIST = """person, man, woman, child, adult, baby, passenger
dog, puppy
bear, panda
train
airplane, jet
chair, seat
toilet
hot dog
traffic light, street light
bus

knife
"""
INSTANCES = {
    "images": [
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 8, "file_name": "000000000008.jpg"},
        {"id": 9, "file_name": "nine.jpg"},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "chair"}],
    "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 2}],
}


@pytest.fixture()
def files(tmp_path):
    (tmp_path / "names.txt").write_text(LIST)
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    return {"synonyms": str(tmp_path / "names.txt"), "instances": str(tmp_path / "instances.json")}


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a man and two women with puppies", ["person", "person", "dog"]),
        ("a baby bear with a baby", ["bear", "person"]),
        ("an adult panda", ["person", "bear"]),  # only the names of CHAIR's animals
        ("a passenger train and a passenger", ["train", "person"]),
        ("a hot dog and a dog", ["hot dog", "dog"]),
        ("hot dogs by street lights", ["hot dog", "traffic light"]),
        ("a train track", []),
        ("the seat of the toilet", ["toilet"]),
        ("a toilet seat and a chair", ["toilet", "chair"]),
        ("a seat", ["chair"]),
        ("three buses, knives", ["bus", "knife"]),
        ("glass grass", []),
        ("", []),
    ],
)
def test_objects_that_a_caption_names(tmp_path, caption, objects):
    (tmp_path / "names.txt").write_text(LIST)
    assert ObjectNames(read_synonyms(tmp_path / "names.txt")).find(caption.replace(",", "").split()) == objects


def test_shares_by_hand(files):
    captions = CaptionSet(
        {
            "val2014/COCO_val2014_000000000007.jpg": "A man, a dog and a bus.",
            "8": "a train near a train",
            "x/nine.jpg": "fun",
        },
        {
            "val2014/COCO_val2014_000000000007.jpg": ["a man walks"],
            "8": ["The train.", "a bus"],
            "x/nine.jpg": ["nothing here"],
        },
    )
    found = score_set(captions, {"ObjectHallucination": ObjectHallucination(**files)})
    # five things are named, the bus of the first is nowhere; the train of the second is in a reference
    assert found.averages == {
        "ObjectHallucination-i": pytest.approx(100 / 5),
        "ObjectHallucination-s": pytest.approx(100 / 3),
    }
    first = found.per_image["val2014/COCO_val2014_000000000007.jpg"]
    assert first == {"ObjectHallucination-i": pytest.approx(100 / 3), "ObjectHallucination-s": 100}
    assert found.per_image["x/nine.jpg"] == {"ObjectHallucination-s": 0}  # it names nothing: it has no share
    assert "names.txt" in found.notes["ObjectHallucination"]


def test_chair_wants_the_published_list(files, monkeypatch):
    with pytest.raises(UserError, match="ObjectHallucination"):
        CHAIR(**files)
    monkeypatch.setattr(object_scorers, "PUBLISHED_SHA256", synonyms_sha256(files["synonyms"]))
    found = score_set(CaptionSet({"7": "a bus"}, {"7": ["a dog"]}), {"CHAIR": CHAIR(**files)})
    assert found.averages == {"CHAIR-i": 100, "CHAIR-s": 100}


def test_blanks_and_the_end_of_the_list_do_not_change_its_hash(tmp_path):
    for name, text in (("1", "dog, puppy\ncat\n"), ("2", "\ufeffdog,  puppy \r\n\r\ncat"), ("3", "dog, puppy\ncats")):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    one, two, three = (synonyms_sha256(tmp_path / name) for name in "123")
    assert one == two != three


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"categories": [{"id": 1, "name": "sofa"}]}, "'sofa'.*names.txt"),
        ({"annotations": [{"image_id": 99, "category_id": 1}]}, r"annotations\[0\]"),
        ({"images": [{"id": 7}]}, r"images\[0\].*'file_name'"),
    ],
)
def test_a_bad_instances_file_is_named(files, change, said):
    with open(files["instances"], "w") as file:
        json.dump(INSTANCES | change, file)
    with pytest.raises(UserError, match=said):
        ObjectHallucination(**files).score(CaptionSet({"7": "a bus"}, {"7": ["a dog"]}))


def test_images_that_are_not_annotated_are_named(files):
    with pytest.raises(UserError, match=r"instances.json: ten.jpg"):
        ObjectHallucination(**files).score(CaptionSet({"7": "x", "ten.jpg": "x"}, {"7": ["x"], "ten.jpg": ["x"]}))


@pytest.mark.parametrize(("text", "said"), [("dog,,cat", "line 1"), ("\n", "names.txt")])
def test_a_bad_list_is_named(tmp_path, text, said):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=said):
        read_synonyms(tmp_path / "names.txt")


def test_a_missing_list_says_where_it_is(tmp_path):
    with pytest.raises(UserError, match=r"github\.com/LisaAnne/Hallucination"):
        read_synonyms(tmp_path / "names.txt")
