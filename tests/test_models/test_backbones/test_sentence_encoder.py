"""Mean pooling, against the hidden states of a small BERT that is built here in sentence-transformers' file format."""

import huggingface_hub
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from synthcap_mm.models.backbones import SentenceEncoder
from synthcap_mm.registry import MODELS
from synthcap_mm.store.recipes import component_recipe

WORDS = ["[PAD]", "[UNK]", "a", "dog", "cat", "on", "the", "grass"]


def write(folder, seed=0):
    """A folder with weights and tokenizer; seed: of the weights."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bert") / "tiny")


def test_features_are_the_mean_of_the_sentences_own_tokens(folder):
    encoder = MODELS.build({"type": "SentenceEncoder", "model": folder})
    both = encoder.encode_text(["a dog on the grass", "the cat"])
    for feature, ids in zip(both, ([2, 3, 5, 6, 7], [6, 4])):
        hidden = encoder.model(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(feature, torch.nn.functional.normalize(hidden.mean(0), dim=0), atol=1e-6, rtol=0)
    assert not both.requires_grad


def test_what_exceeds_the_context_is_cut(folder):
    encoder = SentenceEncoder(folder, context=2)
    torch.testing.assert_close(encoder.encode_text(["the cat on the grass"]), encoder.encode_text(["the cat"]))


def test_recipes_know_folders_by_content_and_models_of_the_hub_by_commit(folder, tmp_path, monkeypatch):
    def recipe(**options):
        return component_recipe({"type": "SentenceEncoder", **options})

    assert recipe(model=folder)["model"]["folder"] == "tiny"
    assert recipe(model=folder) != recipe(model=write(tmp_path / "tiny", seed=1))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: "/cache/snapshots/0a1b/config.json")
    assert recipe()["revision"] == "0a1b"
