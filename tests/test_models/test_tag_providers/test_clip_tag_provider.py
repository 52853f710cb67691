import pytest
import torch
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.models.backbones import BaseBackbone
from synthcap_mm.models.tag_providers import CLIPTagProvider
from synthcap_mm.models.tag_providers.clip_tag_provider import fill_prompt, read_vocabulary
from synthcap_mm.registry import MODELS
from synthcap_mm.store.recipes import component_recipe

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@MODELS.register_module()
class ColourEncoder(BaseBackbone):
    """Sees the mean colour; reads the colours that a sentence names."""

    def __init__(self):
        super().__init__()
        self.name, self.embed_dim, self.logit_scale = "colours", 3, 20.0
        self.read = []

    def preprocess(self, image):
        return torch.tensor(list(image.convert("RGB").resize((1, 1)).getpixel((0, 0)))).float().reshape(3, 1, 1)

    def encode_image(self, pixels):
        return self.unit(pixels.flatten(1) + 1e-3)

    def encode_text(self, texts):
        self.read.extend(texts)
        return self.unit(torch.tensor([[float(word in text) + 1e-3 for word in COLOURS] for text in texts]))


@pytest.fixture
def provider():
    return CLIPTagProvider(ColourEncoder(), ["red thing", "green thing", "blue thing"], min_score=0.0)


def test_names_what_is_there(provider):
    images = [Image.new("RGB", (8, 6), colour) for colour in COLOURS.values()]
    found = provider.detect(images)
    assert [tags[0].name for tags in found] == ["red thing", "green thing", "blue thing"]
    for tags in found:
        assert len(tags) == 3 and sum(tag.score for tag in tags) == pytest.approx(1)
        assert [tag.score for tag in tags] == sorted((tag.score for tag in tags), reverse=True)
        assert all(tag.box is None and tag.area == 1.0 for tag in tags)


def test_softmax_with_the_encoders_temperature_or_a_given_one():
    feats = torch.nn.functional.normalize(torch.tensor([[1.0, 0.7, 0.1]]), dim=1)
    for temperature, used in ((None, 1 / 20), (0.5, 0.5)):
        provider = CLIPTagProvider(ColourEncoder(), ["red", "green", "blue"], temperature=temperature, min_score=0.0)
        expected = (feats @ provider.name_features.T / used).softmax(dim=1)[0]
        torch.testing.assert_close(torch.tensor([tag.score for tag in provider.detect_features(feats)[0]]), expected)


def test_features_give_the_same_tags_as_pictures(provider):
    images = [Image.new("L", (5, 5), 90), Image.new("RGB", (3, 9), (200, 90, 0))]
    feats = provider.encoder.encode_pil(images)
    assert provider.detect_features(feats) == provider.detect(images)
    assert [t.name for t in provider.detect_features(feats.half())[1]] == [t.name for t in provider.detect(images)[1]]
    assert provider.detect([]) == []


def test_thresholds_and_cached_names():
    encoder = ColourEncoder()
    provider = CLIPTagProvider(encoder, ["red", "green", "blue"], prompts=("a {}.", "the {} one"), max_tags=2)
    for _ in range(3):
        tags = provider.detect([Image.new("RGB", (2, 2), (255, 235, 60))])[0]
    assert [tag.name for tag in tags] == ["red", "green"]
    assert len(provider.detect([Image.new("RGB", (2, 2), "red")])[0]) == 1  # the others are below 0.05
    assert encoder.read == ["a red.", "a green.", "a blue.", "the red one", "the green one", "the blue one"]


def test_names_below_the_cosine_are_left_out_whatever_their_score():
    feats = torch.nn.functional.normalize(torch.tensor([[1.0, 0.7, 0.1], [0.2, 0.2, 0.2]]), dim=1)
    free = CLIPTagProvider(ColourEncoder(), ["red", "green", "blue"], min_score=0.0)
    cosines = (feats @ free.name_features.T).tolist()
    at = CLIPTagProvider(ColourEncoder(), ["red", "green", "blue"], min_score=0.0, min_cosine=0.58)
    some, none = at.detect_features(feats)
    assert [tag.name for tag in some] == [n for n, c in zip(at.names, cosines[0]) if c >= 0.58] == ["red"]
    assert none == [] and max(cosines[1]) < 0.58
    assert (
        len(free.detect_features(feats)[1]) == 3 and some[0] == free.detect_features(feats)[0][0]
    )  # scores are the same


def test_prompts_are_averaged():
    encoder = ColourEncoder()
    first, second = (CLIPTagProvider(encoder, ["red", "blue"], prompts=p).name_features for p in ("{}", "green {}"))
    both = CLIPTagProvider(encoder, ["red", "blue"], prompts=("{}", "green {}")).name_features
    torch.testing.assert_close(both, torch.nn.functional.normalize(first + second, dim=1))


@pytest.mark.parametrize("phrase", ["a dog", "an apple", "a unicorn", "an uninhabited island", "an hourglass", "a horse",
                                    "a one-way sign", "an x-ray", "a European robin", "a ukulele"])  # fmt: skip
def test_article(phrase):
    name = phrase.split(" ", 1)[1]
    assert fill_prompt("a photo of a {}.", name) == fill_prompt("a photo of an {}.", name) == f"a photo of {phrase}."


def test_article_elsewhere():
    assert fill_prompt("A {} on a {}", "owl") == "An owl on an owl"
    assert fill_prompt("extra {}, a big {}", "owl") == "extra owl, a big owl"


def test_vocabulary_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("dog\n\n  fire hydrant \ncafé\n", encoding="utf-8")
    assert read_vocabulary(str(path)) == ["dog", "fire hydrant", "café"]
    for content, place in (
        (b"dog\ncat\n\ndog\n", "line 4"),
        ("dog\ncafé\n".encode("latin-1"), "UTF-8"),
        (b"\n", "0 names"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"names\.txt.*{place}"):
            read_vocabulary(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        read_vocabulary("none.txt")


def test_from_a_config_and_known_by_the_vocabularys_content(tmp_path):
    def config(folder, names):
        folder.mkdir(exist_ok=True)
        (folder / "names.txt").write_text(names)
        return {
            "type": "CLIPTagProvider",
            "encoder": {"type": "ColourEncoder"},
            "vocabulary": str(folder / "names.txt"),
        }

    provider = MODELS.build(config(tmp_path / "a", "red\ngreen\n"))
    assert provider.to("cpu") is provider and provider.names == ["red", "green"] and provider.temperature == 0.05
    recipes = [component_recipe(config(tmp_path / f, "red\ngreen\n")) for f in "ab"]
    assert recipes[0] == recipes[1] != component_recipe(config(tmp_path / "b", "red\nblue\n"))


def test_bad_input():
    with pytest.raises(UserError, match="prompts"):
        CLIPTagProvider(ColourEncoder(), ["a", "b"], prompts=["a photo"])
    for wrong in ({"temperature": 0}, {"max_tags": 0}, {"min_score": 1}, {"min_cosine": 1.1}):
        with pytest.raises(UserError, match=f"CLIPTagProvider.{next(iter(wrong))}"):
            CLIPTagProvider(ColourEncoder(), ["a", "b"], **wrong)
