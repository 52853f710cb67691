"""What is retrieved becomes a prompt and a context; nothing of it is the answer."""

import numpy as np
import pytest
import torch
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import RetrievedCaptions
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch, group_id

DIM, COUNT = 16, 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Captions of one group each; every second has the words of the one before it, up to the last bit of float16."""
    text = unit(np.random.default_rng(3).standard_normal((COUNT, DIM)))
    text[1::2] = text[::2]
    return make_store(tmp_path_factory.mktemp("retrieved") / "pairs", COUNT, dim=DIM, text_features=text)


def neck_of(store, **options):
    neck = RetrievedCaptions(**options)
    neck.bind(CaptionMemory.from_store(Store.open(store), None))
    return neck


def batch_of(neck, rows):
    text = neck.memory.features[torch.tensor(rows)]
    groups = torch.tensor([group_id(f"g{row}") for row in rows])
    return PrefixBatch(text, "text", text_feats=text, memory_rows=torch.tensor(rows), group_ids=groups)


def test_a_training_caption_retrieves_neither_itself_nor_its_group_nor_its_words(store):
    neck = neck_of(store, k=3, prompt="Like: {captions} So:", noise_variance=0.02)
    # Each is also of the group of the caption ten further.
    batch = batch_of(neck, list(range(0, 40, 2)))
    batch = batch.replace(group_ids=torch.tensor([group_id(f"g{row + 10}") for row in range(0, 40, 2)]))
    for _ in range(5):
        out, losses = neck(batch, "train")
        found = torch.cdist(out.context[:, 1:] / DIM**0.5, neck.memory.features[None].expand(20, -1, -1)).argmin(2)
        for row, places in zip(range(0, 40, 2), found.tolist()):
            assert not {row, row + 1} & set(places)
            assert not any(place // 2 == row // 2 for place in places)
        assert losses == {}


def test_the_context_is_the_feature_and_the_nearest_captions_and_the_prompt_says_them(store):
    neck = neck_of(store, k=2, prompt="Like: {captions} So:")
    photo = torch.nn.functional.normalize(torch.randn(3, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    out, _ = neck(PrefixBatch(photo, "real"), "predict")
    nearest = (photo @ neck.memory.features.T).topk(2).indices
    seen = torch.cat([photo[:, None], neck.memory.features[nearest]], 1)
    torch.testing.assert_close(out.context, 4 * seen)  # √16
    assert torch.equal(out.feats, photo)
    for prompt, (first, second) in zip(out.prompts, nearest.tolist()):
        texts = [neck.memory.text(place).rstrip(" .") for place in (first, second)]
        assert prompt == f"Like: {texts[0]}. {texts[1]}. So:"
    text_only = neck_of(store, k=2, prompt="{captions}", context=False)(PrefixBatch(photo, "real"), "predict")[0]
    assert text_only.context is None and len(text_only.prompts) == 3
    features_only = neck_of(store, k=2)
    assert features_only(PrefixBatch(photo, "real"), "predict")[0].prompts is None and features_only.prompt_length == 0


def test_a_sentence_has_one_full_stop():
    neck = RetrievedCaptions(prompt="{captions}")
    assert neck.word(["A dog runs.", "two cats", "a ball . "]) == "A dog runs. two cats. a ball."
    with pytest.raises(UserError, match=r"RetrievedCaptions\.prompt is .*\{captions\}"):
        RetrievedCaptions(prompt="captions")


def test_another_memory_is_retrieved_from_after_a_swap(store):
    neck = neck_of(store, k=2, prompt="{captions}")
    other = CaptionMemory(torch.eye(DIM)[:3], ["one", "two", "three"])
    neck.bind(other)
    out, _ = neck(PrefixBatch(torch.eye(DIM)[1:2], "real"), "predict")
    assert out.prompts[0].startswith("two. ")


def test_another_encoder_retrieves_and_the_context_is_the_captioners_own(two_encoders):
    neck = neck_of(two_encoders[0], k=3, prompt="{captions}", encoder="search")
    own, search = neck.memory.features, neck.memory.features_of("search")
    out, _ = neck(PrefixBatch(own[:4], "real", other_feats={"search": search[10:14]}), "predict")
    rows = (search[10:14] @ search.T).topk(3).indices
    torch.testing.assert_close(out.context, torch.cat([own[:4, None], own[rows]], dim=1) * 32**0.5)
    assert out.prompts == [neck.word(map(neck.memory.text, places)) for places in rows.tolist()]
