"""Names in captions, and names frequent in retrieved captions."""

import numpy as np
import pytest
import torch
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.models.tag_providers import CaptionEntities, RetrievedEntities
from synthcap_mm.models.tag_providers.caption_entities import plural

NAMES = [
    "dog",
    "bear",
    "teddy bear",
    "person",
    "bus",
    "knife",
    "man",
    "wine glass",
    "vase of flowers",
    "puppy",
    "child",
]


@pytest.mark.parametrize("one, many", [
    ("dog", "dogs"), ("bus", "buses"), ("wine glass", "wine glasses"), ("puppy", "puppies"), ("toy", "toys"),
    ("man", "men"), ("fireman", "firemen"), ("woman", "women"), ("human", "humans"), ("person", "people"),
    ("knife", "knives"), ("leaf", "leaves"), ("roof", "roofs"), ("vase of flowers", "vases of flowers"),
    ("bench", "benches"), ("couch", "couches"), ("box", "boxes"), ("sheep", "sheep"), ("giraffe", "giraffes"),
])  # fmt: skip
def test_plurals(one, many):
    assert plural(one) == many


def test_names_come_in_the_order_of_mention_once_each_and_the_longest_counts():
    entities = CaptionEntities(NAMES)
    assert entities.names_in("Two men and a DOG look at a man with teddy  bears") == ["man", "dog", "teddy bear"]
    assert entities.names_in("children, knives; buses!") == ["child", "knife", "bus"]
    assert entities.names_in("a hot-dog, busy doggy manhole") == []
    assert entities.names_in("vases of flowers by the wine glasses") == ["vase of flowers", "wine glass"]
    (tags,) = entities.tag_captions(["puppies"])
    assert [(t.name, t.score, t.box) for t in tags] == [("puppy", 1.0, None)]


def test_aliases_stand_for_a_name():
    entities = CaptionEntities(["person", "dog"], {"person": ["man", "Woman"]})
    assert entities.names_in("a woman, two men and people with dogs") == ["person", "dog"]


def test_a_name_wins_over_a_plural_of_the_same_form():
    assert CaptionEntities(["glass", "glasses"]).names_in("glasses and a glass") == ["glasses", "glass"]


def test_the_file_of_a_vocabulary(tmp_path):
    (tmp_path / "names.txt").write_text("dog\nhair drier\n")
    assert CaptionEntities(str(tmp_path / "names.txt")).names_in("hair driers") == ["hair drier"]
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        CaptionEntities(str(tmp_path / "none.txt"))


def test_bad_aliases_are_refused():
    with pytest.raises(ValueError, match="cat"):
        CaptionEntities(["dog", "bus"], {"cat": ["kitty"]})
    with pytest.raises(ValueError, match="bus"):
        CaptionEntities(["dog", "bus"], {"dog": ["bus"]})


def test_frequent_names_of_the_nearest_captions(tmp_path):
    rng = np.random.default_rng(0)
    text = unit(np.concatenate([rng.standard_normal((4, 6)) * 0.01 + np.eye(6)[0],
                                rng.standard_normal((8, 6)) * 0.01 + np.eye(6)[1]]))  # fmt: skip
    words = ["a dog", "a dog and a bus", "dogs", "bus stop", *["a man"] * 8]
    store = make_store(tmp_path / "s", 12, dim=6, text_features=text, texts=words, heldout=(11,))
    tagger = RetrievedEntities(store, NAMES, k=4)
    dogs, men = tagger.detect_features(torch.eye(6)[:2])
    assert [(t.name, t.score) for t in dogs] == [("dog", 0.75), ("bus", 0.5)]
    assert [(t.name, t.score) for t in men] == [("man", 1.0)]
    with pytest.raises(ValueError, match=r"k .* 11"):
        RetrievedEntities(store, NAMES, k=12).detect_features(torch.eye(6))
    with pytest.raises(UserError, match="RetrievedEntities"):
        RetrievedEntities(store, NAMES, k=0)
