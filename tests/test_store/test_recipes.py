"""What decides a table, and what does not."""

import json

import pytest

from synthcap_mm.registry import DATASETS, MODELS
from synthcap_mm.store.recipes import component_recipe, differences, digest, settings_recipe


@pytest.fixture()
def thing():
    @MODELS.register_module(force=True)
    class Thing:
        not_in_recipe = ("batch_size", "device")

        def __init__(self, weights=None, encoder=None, sizes=(1, 2), batch_size=4, device="cpu", flag=False):
            pass

    return Thing


def recipe(**arguments):
    return component_recipe({"type": "Thing", **arguments})


def test_the_same_value_the_same_digest():
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1}) and len(digest("ä")) == 12
    assert digest("caf\udce9.png") != digest("café.png")  # the name of a file that is not UTF-8
    assert len({digest(v) for v in (1, "1", 1.0, True, None, [1], {"1": 1})}) == 7


def test_numbers_as_keys_give_the_digest_of_the_recipe_that_is_read_again():
    recipe = settings_recipe({"wrong": {10: 1, 9: 2}})
    assert digest(recipe) == digest(json.loads(json.dumps(recipe)))


def test_defaults_and_what_does_not_decide_are_left_out(thing):
    assert recipe() == {"type": "Thing", "version": 1}
    assert recipe(sizes=[1, 2], batch_size=99, device="cuda:1", flag=False) == recipe()
    assert recipe(flag=True) != recipe() and recipe(sizes=[2, 1]) != recipe()
    assert recipe(flag=0) != recipe()  # equal to the default, and not the same
    assert component_recipe({"type": thing, "flag": True}) == recipe(flag=True)
    assert component_recipe({"type": "Thing", "flag": True}, "flag") == recipe() and component_recipe(None) is None


def test_files_and_folders_count_by_content(thing, tmp_path):
    for name in "ab":
        (tmp_path / name / "folder").mkdir(parents=True)
        (tmp_path / name / "w.pt").write_bytes(b"weights")
        (tmp_path / name / "folder" / "x.bin").write_bytes(b"more")
    at_a, at_b = ({"weights": str(tmp_path / n / "w.pt"), "encoder": tmp_path / n / "folder"} for n in "ab")
    found = recipe(**at_a)
    assert found == recipe(**at_b) and str(tmp_path) not in repr(found)
    (tmp_path / "b" / "w.pt").write_bytes(b"weightz")
    assert recipe(**at_b)["weights"] != found["weights"] and recipe(**at_b)["encoder"] == found["encoder"]
    (tmp_path / "b" / "folder" / "x.bin").write_bytes(b"mora")
    assert recipe(**at_b)["encoder"] != found["encoder"]
    nested = settings_recipe({"lists": [str(tmp_path / "a" / "w.pt")], "kind": str(tmp_path), "long": "x" * 5000})
    assert nested["lists"][0]["file"] == "w.pt" and nested["kind"] == str(tmp_path) and nested["long"] == "x" * 5000


def test_components_within_components(thing):
    one, other = recipe(encoder={"type": "Thing", "batch_size": 7}), recipe(encoder={"type": "Thing", "flag": True})
    assert one["encoder"] == recipe() and other["encoder"] == recipe(flag=True)
    assert recipe(encoder={"type": "no component", "x": 1})["encoder"] == {"type": "no component", "x": 1}
    with pytest.raises(KeyError, match="Nobody"):
        component_recipe({"type": "Nobody"})


def test_a_class_can_raise_its_version_and_pin_what_an_argument_stands_for(thing):
    @DATASETS.register_module(force=True)
    class Pinned(thing):
        @classmethod
        def pin(cls, arguments):
            return {**arguments, "weights": f"{arguments['weights']}@123abc"}

    old = component_recipe({"type": "Pinned", "weights": "hub/model"})
    assert old["weights"] == "hub/model@123abc"
    Pinned.recipe_version = 2
    assert digest(component_recipe({"type": "Pinned", "weights": "hub/model"})) != digest(old)


def test_differences_are_named(thing, tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(b"1")
    old = recipe(flag=True, encoder={"type": "Thing", "sizes": [3]}, weights=str(file))
    assert differences(old, old) == []
    file.write_bytes(b"2")
    new = recipe(encoder={"type": "Thing", "sizes": [4]}, weights=str(file))
    named = [line.partition(":")[0] for line in differences(old, new)]
    assert named == ["encoder.sizes", "flag", "weights.sha256"]
    file.unlink()  # cannot be compared: its name decides
    gone = recipe(flag=True, encoder={"type": "Thing", "sizes": [3]}, weights=str(file))
    assert differences(old, gone) == []


def test_a_revision_that_is_not_known_here_is_not_compared():
    old = {"generator": {"type": "DiffusersGenerator", "revision": "abc"}}
    assert differences(old, {"generator": {"type": "DiffusersGenerator", "revision": None}}) == []
    assert differences(old, {"generator": {"type": "DiffusersGenerator", "revision": "def"}})
