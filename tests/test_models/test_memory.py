"""What a captioner remembers, and how it gives it to its necks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_store import make_store

import synthcap_mm.models.memory as module
from synthcap_mm.datasets import CaptionEvalDataset
from synthcap_mm.errors import UserError
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.registry import MODELS
from synthcap_mm.store import Store
from synthcap_mm.structures import group_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(make_store(tmp_path_factory.mktemp("memory") / "pairs", 40, dim=8, heldout=(0, 7)))


def test_of_a_store(store, monkeypatch):
    memory = CaptionMemory.from_store(store)
    rows = [row for row in range(40) if row not in (0, 7)]
    assert len(memory) == 38 and memory.rows.tolist() == rows and memory.features.dtype == torch.float32
    assert torch.equal(memory.features, torch.from_numpy(store.caption_features(np.array(rows)).astype(np.float32)))
    assert memory.text(0) == "caption number 1" and memory.text(37) == "caption number 39"
    assert memory.groups.tolist() == [group_id(f"g{row}") for row in rows]
    assert memory.encoder == store.encoder and memory.digest == store.captions_sha256("train")
    assert memory.places(torch.tensor([1, 7, 39, -1, 100])).tolist() == [0, -1, 37, -1, -1]
    assert len(CaptionMemory.from_store(store, split=None)) == 40
    monkeypatch.setattr(module, "_READ_ROWS", 3)
    assert torch.equal(CaptionMemory.from_store(store).features, memory.features)


def test_texts_and_groups_are_not_held(store):
    memory = CaptionMemory.from_store(store)
    assert memory._groups is None and callable(memory._texts)


def test_of_sentences(tiny):
    encoder = tiny.TinyEncoder()
    sentences = ["a  red circle", *(f"number {i}" for i in range(300))]
    memory = CaptionMemory.from_sentences(sentences, encoder)
    assert memory.text(0) == "a red circle" and len(memory) == 301 and memory.places(torch.tensor([0])) is None
    torch.testing.assert_close(memory.features[:1], encoder.encode_text(["a red circle"]))
    assert memory.encoder["name"] == encoder.name and memory.groups is None
    assert memory.digest != CaptionMemory.from_sentences(sentences[1:], encoder).digest
    for wrong in ([], ["x", " "], "one string"):
        with pytest.raises(UserError):
            CaptionMemory.from_sentences(wrong, encoder)


def test_features_by_other_encoders_are_read_when_they_are_asked_for(two_encoders, tiny, monkeypatch):
    store = Store.open(two_encoders[0])
    memory = CaptionMemory.from_store(store)
    monkeypatch.setattr(module, "_READ_ROWS", 7)
    expected = store.caption_features(store.caption_rows(), "search").astype(np.float32)
    assert torch.equal(memory.features_of("search"), torch.from_numpy(expected))
    assert memory.features_of("search") is memory.features_of("search") and memory.features_of(None) is memory.features
    assert memory.other_encoders == store.other_encoders
    other = tiny.TinyEncoder(dim=24, seed=7)
    sentences = ["a red dog", "a blue cat"]
    memory = CaptionMemory.from_sentences(sentences, tiny.TinyEncoder(), {"search": other})
    torch.testing.assert_close(memory.features_of("search"), other.encode_text(sentences))
    with pytest.raises(UserError, match="by an encoder 'clip', and the memory has features by search"):
        memory.features_of("clip")


def test_what_would_be_wrong_in_silence_is_refused():
    feats = F.normalize(torch.randn(3, 4), dim=1)
    with pytest.raises(UserError):
        CaptionMemory(torch.empty(0, 4))
    for rows in ([0, 2, 1], [0, 1, 1], [0, 1]):
        with pytest.raises(ValueError, match="ascending"):
            CaptionMemory(feats, rows=torch.tensor(rows))
    with pytest.raises(ValueError, match="not finite"):
        CaptionMemory(feats.masked_fill(feats == feats[1, 1], torch.nan))


def test_read_under_inference_mode_it_serves_training(store):
    with torch.inference_mode():
        memory = CaptionMemory.from_store(store).to("cpu")
    query = torch.randn(1, 8, requires_grad=True)
    (query @ memory.features.T).sum().backward()


# ---- the captioner's
@pytest.fixture()
def sentences(tiny):
    return CaptionMemory.from_sentences(["a red circle", "a blue square", "two dogs"], tiny.TinyEncoder())


@pytest.fixture()
def other_store(tiny_synthesis):
    """A store of another encoder with the same width."""
    from synthcap_mm.synthesis.synthesis import Synthesis

    encoder = {"type": "TinyEncoder", "seed": 1, "name": "other"}
    Synthesis(**{**tiny_synthesis, "encoder": encoder, "refine": None}).run()
    return tiny_synthesis["store"]


def test_it_is_read_at_first_use_and_once_for_all_necks(tiny_model, tiny_stores):
    tiny_model["necks"] = {"first": dict(tiny_model["necks"]["memory"]), **tiny_model["necks"]}
    model = MODELS.build(tiny_model).eval()
    assert [neck.memory for neck in model.remembering] == [None, None]
    model.val_step([CaptionEvalDataset(tiny_stores[1])[0]])
    first, second = (neck.memory for neck in model.remembering)
    assert first is second is model.memory and len(first) == 30  # 40 captions, 5 groups of 2 held out


def test_swapped_for_a_while(tiny_model, tiny_stores, sentences):
    model = MODELS.build(tiny_model).eval()
    photos = CaptionEvalDataset(tiny_stores[1])
    prefix = model.data_preprocessor([photos[i] for i in range(3)])["prefix"]
    with model.swapped_memory(sentences):
        swapped = model.run_necks(prefix, "predict")[0].feats
        assert model.memory is sentences and model.memory_weights(prefix, 9)[1].shape == (3, 3)
    own = model.run_necks(prefix, "predict")[0].feats
    assert not torch.equal(own, swapped) and len(model.memory) == 30
    with pytest.raises(ZeroDivisionError), model.swapped_memory(sentences):
        raise ZeroDivisionError
    assert len(model.memory) == 30
    without = MODELS.build({**tiny_model, "necks": {**tiny_model["necks"], "memory": None}})
    assert without.memory is None
    with pytest.raises(UserError), without.swapped_memory(sentences):
        pass


def test_a_memory_of_another_encoder_is_refused(tiny_model, other_store, sentences):
    model = MODELS.build(tiny_model)
    with pytest.raises(UserError, match=r"'other'.*'tiny'"):
        model.bind_memory(CaptionMemory.from_store(Store.open(other_store)))
    with pytest.raises(UserError, match="8"):
        model.bind_memory(CaptionMemory(torch.randn(5, 8)))
    tiny_model["necks"]["memory"]["memory"] = other_store
    with pytest.raises(UserError, match=r"'other'.*'tiny'") as caught:
        MODELS.build(tiny_model)
    assert other_store in str(caught.value)


def test_without_a_store_it_is_compared_with_the_checkpoint_and_the_backbone(tiny_model, tiny_stores, other_store):
    identity = MODELS.build(tiny_model).identity
    tiny_model["data_preprocessor"]["tokenizer"] = str(Store.open(tiny_stores[0]).tokenizer_path)
    tiny_model["necks"]["memory"]["memory"] = other_store
    tiny_model["necks"]["projector"]["in_dim"] = 32
    tiny_model.update(store=None, backbone={"type": "TinyEncoder"})
    with pytest.raises(UserError, match=r"'other'.*'tiny'"):
        MODELS.build(tiny_model).check_identity(identity)
    with pytest.raises(UserError, match=r"'other'.*'tiny'"):
        MODELS.build(tiny_model).backbone  # noqa: B018 - builds it


def test_no_memory_at_all(tiny_model, tiny_stores):
    tiny_model["data_preprocessor"]["tokenizer"] = str(Store.open(tiny_stores[0]).tokenizer_path)
    tiny_model["necks"]["projector"]["in_dim"] = 32
    model = MODELS.build({**tiny_model, "store": None}).eval()
    with pytest.raises(UserError, match=r"model\.store"):
        model.val_step([CaptionEvalDataset(tiny_stores[1])[0]])
