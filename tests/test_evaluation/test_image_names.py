import random

import pytest

from synthcap_mm.evaluation import image_names
from synthcap_mm.evaluation.image_names import coco_number, find_images


@pytest.fixture()
def told(monkeypatch):
    """What was logged of joins by short names."""
    messages = []
    monkeypatch.setattr(image_names, "print_log", lambda message, **options: messages.append(message))
    return messages


def find(names, images):
    return find_images(names, {key: [key] for key in images}, "ref.json")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("val2014/COCO_val2014_000000000042.jpg", "42"),
        ("000000000042.jpg", "42"),
        ("000000000042", "42"),
        ("cat_1.jpg", None),
        ("1000000000042.jpg", None),  # thirteen digits
        ("00000000042.jpg", None),  # eleven
        ("000000000042_crop.jpg", None),
        ("٠٠٠٠٠٠٠٠٠٠٤٢.jpg", None),  # digits of another script
    ],
)
def test_cocos_number_is_twelve_digits_at_the_end(name, number):
    assert coco_number(name) == number


def test_exact_names_and_cocos_number_join_without_a_word(told):
    assert find(["a/1.jpg", "7"], ["7", "a/1.jpg"]) == {"a/1.jpg": "a/1.jpg", "7": "7"}
    assert find(["42", "x/000000000043.png"], ["val/COCO_val2014_000000000042.jpg", "43"]) == {
        "42": "val/COCO_val2014_000000000042.jpg",
        "x/000000000043.png": "43",
    }
    assert told == []


def test_a_name_of_its_own_counts_before_another_images_number():
    found = find_images(["7", "000000000007.jpg"], {"7": ["7", "dog.jpg"], "8": ["8", "000000000007.jpg"]}, "ref.json")
    assert found == {"7": "7", "000000000007.jpg": "8"}


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["cat_1.jpg", "dog_2.jpg"], ["dog_1.jpg", "cat_2.jpg"]),  # a trailing number is no name
        (["b/1.jpg"], ["a/1.jpg"]),  # another folder is another picture
        (["1.png"], ["1.jpg"]),
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"]),  # unique on one side only
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"]),
        (["1", "1.jpg"], ["a/11.jpg"]),  # half a name is no end of it
        (["x/7.jpg"], ["17"]),
        (["", ".", "/", "a.jpg"], ["", "/"]),
    ],
)
def test_names_that_mean_no_image_or_several_join_none(names, images, told):
    assert find(names, [*images, "other"]) == {name: name for name in names if name in images}
    assert told == []


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["photos/a/1.png", "photos/b/1.png"], ["a/1.png", "b/1.png"]),
        (["a/1.png", "b/1.png"], ["/data/photos/a/1.png", "/data/photos/b/1.png"]),
        (["./a/1.png"], ["a/1.png"]),
        (["1", "x/2.jpg"], ["a/1.jpg", "2"]),
        # the longest end first: what lies in the folder itself, beside a folder in it
        (["photos/a/1.png", "photos/1.png"], ["a/1.png", "1.png"]),
    ],
)
def test_the_end_of_a_name_joins_where_it_is_unique_and_is_told_in_one_line(names, images, told):
    wanted = dict(zip(names, images, strict=True))
    assert find(names, images) == wanted
    for seed in range(5):
        random.Random(seed).shuffle(names)
        random.Random(seed + 9).shuffle(images)
        assert find(names, images) == wanted
    assert len(told) == 6 and told[0].startswith(f"{len(names)} of {len(names)} images") and "ref.json" in told[0]


def test_a_number_is_no_files_name_where_the_image_has_one(told):
    assert find_images(["x/7.jpg"], {"7": ["7", "dog.jpg"]}, "ref.json") == {}
    assert find_images(["x/7.jpg"], {"7": ["7"]}, "ref.json") == {"x/7.jpg": "7"}
