"""RetrievalFusion against a plain float64 reference, gradients included."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_store import make_store, unit

from synthcap_mm.errors import UserError
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import RetrievalFusion
from synthcap_mm.store import Store
from synthcap_mm.structures import PrefixBatch, group_id

DIM, COUNT = 8, 50


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Groups are of one caption each; caption 7 has the words of caption 3."""
    text = unit(np.random.default_rng(3).standard_normal((COUNT, DIM)))
    text[7] = text[3]
    return make_store(tmp_path_factory.mktemp("fusion") / "pairs", COUNT, dim=DIM, text_features=text, heldout=(0, 1))


def fusion(store, dim=DIM, **options):
    """The neck with the store's training captions as its memory."""
    neck = RetrievalFusion(dim, **options)
    neck.bind(CaptionMemory.from_store(Store.open(store)))
    return neck


def batch_of(neck, rows):
    """Training samples of these rows of the store."""
    text = neck.memory.features[neck.memory.places(torch.tensor(rows))]
    return PrefixBatch(text, "text", text_feats=text, memory_rows=torch.tensor(rows),
                       group_ids=torch.tensor([group_id(f"g{r}") for r in rows]))  # fmt: skip


def test_what_is_retrieved_is_the_most_similar_that_may_be_seen(store):
    neck = fusion(store, k=4, heads=2, block_size=7)
    batch = batch_of(neck, [3, 20, 41])
    # Group of 41 is also, say, the group of the first sample.
    groups = torch.tensor([group_id("g41"), group_id("g20"), -1])
    got = neck.memory.rows[neck.retrieve(batch.feats, neck.own_places(batch), groups, batch.text_feats)]
    memory, rows = neck.memory.features.double(), neck.memory.rows.tolist()
    for i, (own, hidden) in enumerate([(3, {3, 7, 41}), (20, {20}), (41, {41})]):
        similarity = memory @ memory[rows.index(own)]
        order = [rows[j] for j in similarity.argsort(descending=True).tolist()]
        assert got[i].tolist() == [row for row in order if row not in hidden][:4]
    assert not {0, 1} & set(got.flatten().tolist())  # held out


def test_the_same_words_are_found_though_features_are_kept_in_half_precision(tmp_path):
    """Rows come back with norms of 1 ± 1e-4, which once let a quarter of the twins through."""
    text = unit(np.random.default_rng(0).standard_normal((200, 256)))
    text[100:] = text[:100]
    neck = fusion(make_store(tmp_path / "pairs", 200, dim=256, text_features=text), 256, k=3)
    assert (neck.memory.features.norm(dim=1) - 1).abs().max() > 1e-5
    words = F.normalize(neck.memory.features, dim=1)
    got = neck.retrieve(words, torch.arange(200), None, words)
    assert not (got % 100 == torch.arange(200)[:, None] % 100).any()


def test_at_inference_nothing_is_left_out(store):
    neck = fusion(store, k=3, heads=2)
    batch = batch_of(neck, [12, 30])
    assert neck.memory.rows[neck.retrieve(batch.feats)][:, 0].tolist() == [12, 30]


def plain(neck, feats, rows):
    """Multi-head attention written out."""
    d, h = DIM, neck.attention.num_heads
    wq, wk, wv = neck.attention.in_proj_weight.split(d)
    bq, bk, bv = neck.attention.in_proj_bias.split(d)
    others = neck.memory.features.double()[rows]
    q, k, v = feats @ wq.T + bq, others @ wk.T + bk, others @ wv.T + bv
    heads = []
    for j in range(h):
        part = slice(j * d // h, (j + 1) * d // h)
        logits = (k[..., part] * q[:, None, part]).sum(-1) / math.sqrt(d // h)
        heads.append((logits.softmax(1)[..., None] * v[..., part]).sum(1))
    moved = feats + torch.cat(heads, 1) @ neck.attention.out_proj.weight.T + neck.attention.out_proj.bias
    return moved / moved.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("phase, query", [("train", "text_feats"), ("train", "feats"), ("predict", "text_feats")])
def test_fusion_and_its_gradients(store, phase, query):
    torch.manual_seed(0)
    neck = fusion(
        store, k=3, heads=2, noise_variance=0.0, **({} if query == "text_feats" else {"query": query})
    ).double()
    batch = batch_of(neck, [12, 30, 33])
    feats = F.normalize(torch.randn(3, DIM, dtype=torch.float64), dim=1).requires_grad_()
    out, losses = neck(batch.replace(feats=feats, source="text" if phase == "train" else "real"), phase)
    looked_for = batch.text_feats if query == "text_feats" else feats
    rows = (neck.retrieve(looked_for, neck.own_places(batch), batch.group_ids, batch.text_feats)
            if phase == "train" else neck.retrieve(feats))  # fmt: skip
    wanted = plain(neck, feats, rows)
    assert losses == {}
    torch.testing.assert_close(out.feats, wanted)
    weights = torch.randn(3, DIM, dtype=torch.float64)
    parameters = [feats, *neck.attention.parameters()]
    got = torch.autograd.grad((out.feats * weights).sum(), parameters)
    expected = torch.autograd.grad((wanted * weights).sum(), parameters)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)
    assert all(g.abs().sum() > 0 for g in got)


def test_another_encoder_retrieves_and_the_captioners_own_is_fused(two_encoders):
    torch.manual_seed(0)
    neck = fusion(two_encoders[0], 32, k=3, heads=2, noise_variance=0.0, encoder="search")
    memory = neck.memory
    own, search = memory.features.double(), memory.features_of("search").double()
    batch = PrefixBatch(own[:4].float(), "text", text_feats=own[:4].float(), memory_rows=memory.rows[:4],
                        group_ids=memory.groups[:4], other_feats={"search": search[10:14].float()},
                        other_text_feats={"search": search[:4].float()})  # fmt: skip
    words = F.normalize(search, dim=1)
    hidden = (words[:4] @ words.T > 0.99999) | (memory.groups[:4, None] == memory.groups)
    nearest = (search[:4] @ search.T).masked_fill(hidden, -9).topk(3).indices
    for phase, rows in (("train", nearest), ("predict", (search[10:14] @ search.T).topk(3).indices)):
        out, _ = neck(batch if phase == "train" else batch.replace(source="real"), phase)
        others = own[rows].float()
        moved = own[:4].float() + neck.attention(own[:4, None].float(), others, others)[0][:, 0]
        torch.testing.assert_close(out.feats, F.normalize(moved, dim=1))
    assert not torch.equal(nearest, (own[:4] @ own.T).masked_fill(hidden, -9).topk(3).indices)
    torch.testing.assert_close(neck.attend(search[10:14].float(), 3)[1], (search[10:14] @ search.T).topk(3).indices)
    with pytest.raises(UserError, match="features of the encoder 'search'"):
        neck(batch.replace(other_text_feats={}), "train")


def test_the_query_is_noisy_in_training_only(store):
    neck = fusion(store, k=5, heads=2, noise_variance=0.3)
    batch = batch_of(neck, list(range(10, 40)))
    torch.manual_seed(1)
    first, _ = neck(batch, "train")
    torch.manual_seed(1)
    again, _ = neck(batch, "train")
    other, _ = neck(batch, "train")
    assert torch.equal(first.feats, again.feats) and not torch.equal(first.feats, other.feats)
    torch.manual_seed(1)
    noise = torch.randn_like(batch.feats) * math.sqrt(0.3)
    rows = neck.retrieve(
        F.normalize(batch.text_feats + noise, dim=1), neck.own_places(batch), batch.group_ids, batch.text_feats
    )
    assert not (neck.memory.rows[rows] == batch.memory_rows[:, None]).any()
    real = batch.replace(source="real", text_feats=None)
    assert torch.equal(neck(real, "predict")[0].feats, neck(real, "predict")[0].feats)


def test_another_memory_has_no_groups_and_the_own_one_comes_back(store):
    neck = fusion(store, k=2, heads=2)
    batch, own = batch_of(neck, [12, 30]), neck.memory
    wanted = neck.retrieve(batch.feats, None, batch.group_ids)
    neck.bind(CaptionMemory(F.normalize(torch.randn(5, DIM), dim=1)))
    assert neck.retrieve(batch.feats, neck.own_places(batch), batch.group_ids).max() < 5
    neck.bind(own)
    assert torch.equal(neck.retrieve(batch.feats, None, batch.group_ids), wanted)
    assert not torch.equal(neck.retrieve(batch.feats), wanted)


def test_too_few_captions_are_refused(store):
    neck = fusion(store, k=48, heads=2)
    batch = batch_of(neck, [12])
    assert neck(batch.replace(source="real"), "predict")[0].feats.shape == (1, DIM)
    with pytest.raises(ValueError, match="k=48"):
        neck(batch, "train")
    with pytest.raises(ValueError, match="memory_rows"):
        fusion(store, k=2, heads=2)(batch.replace(memory_rows=None), "train")
