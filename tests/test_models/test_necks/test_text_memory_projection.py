import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import synthcap_mm.models.necks.text_memory_projection as module
from synthcap_mm.models.necks import TextMemoryProjection
from synthcap_mm.structures import PrefixBatch

SHA_A, SHA_B = "a1" * 32, "b2" * 32


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def projected(query, memory, temperature=0.01, hidden=None):
    """The formula in float64; ``hidden`` is a (B, M) mask."""
    query, memory = query.double(), memory.double()
    logits = query @ memory.T / temperature
    if hidden is not None:
        logits = logits.masked_fill(hidden, float("-inf"))
    return F.normalize(logits.softmax(-1) @ memory, dim=-1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture()
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(module, "print_log", lambda message, **kwargs: messages.append((message, kwargs["level"])))
    return messages


@pytest.fixture()
def memory():
    return unit(300, 16)


@pytest.fixture()
def neck(memory):
    neck = TextMemoryProjection(block_size=64)
    neck.set_memory(memory, torch.arange(300), SHA_A)
    return neck


class FakeStore:
    """What is used of a store: 40 captions of which the even ones are for training."""

    feats = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=1).numpy().astype("float16")
    opened = 0

    @classmethod
    def open(cls, path):
        cls.opened += 1
        assert path == "some/store"
        return cls()

    def caption_rows(self, split="train"):
        return np.arange(0, 40, 2) if split == "train" else np.arange(40)

    def caption_features(self, rows):
        return self.feats[rows]

    def captions_sha256(self, split="train"):
        return SHA_A if split == "train" else SHA_B


@pytest.fixture()
def fake_store(monkeypatch):
    import synthcap_mm.store

    FakeStore.opened = 0
    monkeypatch.setattr(synthcap_mm.store, "Store", FakeStore, raising=False)
    return FakeStore


# ------------------------------------------------------------------ the formula
@pytest.mark.parametrize("phase", ["train", "predict"])
def test_equals_the_formula(neck, memory, phase):
    feats = unit(10, 16)
    batch = PrefixBatch(feats, "pseudo")
    out, losses = neck(batch, phase)
    assert losses == {} and out.source == "pseudo" and batch.feats is feats
    assert (out.feats - projected(feats, memory)).abs().max() < 1e-5
    assert (out.feats.norm(dim=1) - 1).abs().max() < 1e-6


def test_gradient_reaches_the_query(neck, memory):
    ours = unit(10, 16)
    theirs = ours.double().requires_grad_()
    ours.requires_grad_()
    grad = torch.randn(10, 16)
    neck(PrefixBatch(ours, "pseudo"), "train")[0].feats.backward(grad)
    projected(theirs, memory).backward(grad.double())
    assert (ours.grad - theirs.grad).abs().max() < 1e-4 * theirs.grad.abs().max()


@pytest.mark.parametrize("needs_grad", [False, True])
def test_exclude_self_hides_the_own_row_in_training_only(memory, needs_grad):
    rows = torch.randperm(1000)[:300]  # neither contiguous nor sorted
    neck = TextMemoryProjection(exclude_self=True, block_size=64, temperature=0.05)
    neck.set_memory(memory, rows)
    own = torch.tensor([0, 299, 130, 63, 64, 5])
    absent = next(r for r in range(1000) if r not in set(rows.tolist()))
    feats = F.normalize(memory[own] + 0.1 * torch.randn(6, 16), dim=1).requires_grad_(needs_grad)
    batch_rows = rows[own].clone()
    batch_rows[4], batch_rows[5] = -1, absent
    batch = PrefixBatch(feats, "pseudo", memory_rows=batch_rows)
    hidden = torch.zeros(6, 300, dtype=torch.bool)
    hidden[range(4), own[:4]] = True
    out = neck(batch, "train")[0].feats
    assert (out - projected(feats, memory, 0.05, hidden)).abs().max() < 1e-5
    assert (out[:4] - projected(feats, memory, 0.05)[:4]).abs().amax(1).min() > 0.01
    assert (neck(batch, "predict")[0].feats - projected(feats, memory, 0.05)).abs().max() < 1e-5
    if needs_grad:
        out.sum().backward()
        reference = feats.detach().double().requires_grad_()
        projected(reference, memory, 0.05, hidden).sum().backward()
        torch.testing.assert_close(feats.grad.double(), reference.grad, rtol=1e-3, atol=1e-4)


def test_exclude_self_that_leaves_nothing_or_lacks_rows():
    neck = TextMemoryProjection(exclude_self=True)
    neck.set_memory(unit(1, 4), torch.tensor([7]))
    batch = PrefixBatch(unit(2, 4), "pseudo", memory_rows=torch.tensor([3, 7]))
    with pytest.raises(ValueError, match="single row, and excluding a caption's own row leaves none"):
        neck(batch, "train")
    with pytest.raises(ValueError, match="exclude_self needs the batch's memory_rows"):
        neck(batch.replace(memory_rows=None), "train")
    neck(batch, "predict")


def test_a_swapped_memory_without_rows_excludes_nothing(memory):
    neck = TextMemoryProjection(exclude_self=True)
    neck.set_memory(memory)
    feats = unit(4, 16)
    out, _ = neck(PrefixBatch(feats, "pseudo", memory_rows=torch.arange(4)), "train")
    assert (out.feats - projected(feats, memory)).abs().max() < 1e-5


def test_phases_and_sources(memory):
    neck = TextMemoryProjection(phases=["predict"], sources=["real"])
    neck.set_memory(memory)
    for phase, source, acts in [("train", "real", False), ("predict", "pseudo", False), ("predict", "real", True)]:
        batch = PrefixBatch(unit(2, 16), source)
        assert (neck(batch, phase)[0] is not batch) == acts


def test_attend_explains_the_projection(neck, memory):
    feats = unit(5, 16)
    weights, rows = neck.attend(feats, 7)
    expected, expected_rows = (feats.double() @ memory.double().T / 0.01).softmax(-1).topk(7)
    assert torch.equal(rows, expected_rows)
    assert (weights - expected).abs().max() < 1e-4
    assert not neck.attend(feats.requires_grad_(), 1)[0].requires_grad


# -------------------------------------------------------------------- precision
def test_float32_within_autocast_and_half_models(neck, memory):
    feats = unit(8, 16)
    exact = projected(feats, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = neck(PrefixBatch(feats, "real"), "predict")[0].feats
    assert out.dtype == torch.float32 and (out - exact).abs().max() < 1e-5
    for change in (lambda n: n.half(), lambda n: n.to(torch.bfloat16), lambda n: n.to("cpu", torch.float16)):
        change(neck)
        assert neck.memory.dtype == torch.float32 and torch.equal(neck.memory, memory)
    out = neck(PrefixBatch(feats.half(), "real"), "predict")[0].feats
    assert out.dtype == torch.float32 and (out - projected(feats.half(), memory)).abs().max() < 1e-5


def test_memory_follows_the_device(neck):
    parent = nn.Sequential(neck).to("meta")
    assert parent[0].memory.device.type == "meta" and parent[0].memory_rows.device.type == "meta"


def test_a_memory_loaded_under_inference_mode_serves_training(fake_store):
    neck = TextMemoryProjection("some/store")
    with torch.inference_mode():
        neck(PrefixBatch(unit(2, 8), "real"), "predict")
    feats = unit(2, 8).requires_grad_()
    neck(PrefixBatch(feats, "pseudo"), "train")[0].feats.sum().backward()
    assert feats.grad.isfinite().all()


# ------------------------------------------------------------------- the memory
def test_memory_is_read_from_the_store_on_first_use(fake_store):
    neck = TextMemoryProjection("some/store", temperature=0.1)
    assert fake_store.opened == 0 and neck.memory is None
    feats = unit(3, 8)
    out = neck(PrefixBatch(feats, "real"), "predict")[0].feats
    neck(PrefixBatch(feats, "real"), "predict")
    assert fake_store.opened == 1
    assert neck.memory.dtype == torch.float32 and neck.memory_rows.tolist() == list(range(0, 40, 2))
    assert (out - projected(feats, torch.tensor(fake_store.feats[::2]), 0.1)).abs().max() < 1e-5
    assert bytes(neck.memory_sha256.tolist()).hex() == SHA_A
    everything = TextMemoryProjection("some/store", split=None)
    everything.load_memory()
    assert len(everything.memory) == 40


def test_reading_in_pieces_changes_nothing(fake_store, monkeypatch):
    whole, pieces = TextMemoryProjection("some/store"), TextMemoryProjection("some/store")
    whole.load_memory()
    monkeypatch.setattr(module, "_READ_ROWS", 3)
    pieces.load_memory()
    assert torch.equal(whole.memory, pieces.memory)


def test_no_memory_at_all():
    with pytest.raises(RuntimeError, match="has no memory: name a store"):
        TextMemoryProjection()(PrefixBatch(unit(1, 4), "real"), "predict")


def test_not_finite(neck, fake_store, monkeypatch):
    feats = unit(5, 16)
    feats[2, 3] = float("nan")
    feats[4, 0] = float("inf")
    with pytest.raises(ValueError, match=r"2 of 5 rows of features are not finite.*first is row 2"):
        neck(PrefixBatch(feats, "real"), "predict")
    with pytest.raises(ValueError, match="2 of 5 rows of the memory that was set"):
        neck.set_memory(feats)
    broken = fake_store.feats.copy()
    broken[10] = np.nan
    monkeypatch.setattr(fake_store, "feats", broken)
    with pytest.raises(ValueError, match=r"1 of 20 rows of the memory of 'some/store' \(split 'train'\)"):
        TextMemoryProjection("some/store").load_memory()


def test_bad_arguments(neck):
    with pytest.raises(ValueError, match="'temperature' must be positive"):
        TextMemoryProjection(temperature=0)
    with pytest.raises(ValueError, match="'block_size' must be at least 1"):
        TextMemoryProjection(block_size=0)
    with pytest.raises(ValueError, match="another encoder"):
        neck(PrefixBatch(unit(2, 5), "real"), "predict")
    with pytest.raises(ValueError, match=r"must be \(M, D\) with M > 0"):
        neck.set_memory(torch.empty(0, 4))
    with pytest.raises(ValueError, match="rows of the memory that was set repeat"):
        neck.set_memory(unit(3, 4), torch.tensor([1, 2, 1]))
    with pytest.raises(ValueError, match="3 memory features need as many rows"):
        neck.set_memory(unit(3, 4), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        neck.set_memory(unit(3, 4), sha256="abc")


def test_set_memory_keeps_a_copy(memory):
    neck = TextMemoryProjection()
    given = memory.clone()
    neck.set_memory(given)
    given.zero_()
    assert torch.equal(neck.memory, memory)


# ------------------------------------------------------------------ checkpoints
def test_state_dict_holds_the_hash_and_no_memory(neck):
    state = neck.state_dict()
    assert set(state) == {"memory_sha256"} and state["memory_sha256"].shape == (32,)
    assert bytes(state["memory_sha256"].tolist()).hex() == SHA_A


def test_the_same_memory_loads_silently(neck, memory, warnings):
    other = TextMemoryProjection()
    other.load_state_dict(neck.state_dict())
    other.set_memory(memory, sha256=SHA_A)
    neck.load_state_dict(neck.state_dict())
    assert warnings == []


def test_another_memory_warns_and_works(neck, memory, warnings):
    """Target text: the memory is in use before the checkpoint is loaded."""
    target = TextMemoryProjection()
    target.set_memory(memory[:50], sha256=SHA_B)
    target.load_state_dict(neck.state_dict())
    ((message, level),) = warnings
    assert level == module.logging.WARNING
    assert SHA_A[:12] in message and SHA_B[:12] in message and "50 captions" in message
    assert bytes(target.memory_sha256.tolist()).hex() == SHA_B  # the hash of the memory in use
    feats = unit(2, 16)
    out = target(PrefixBatch(feats, "real"), "predict")[0].feats
    assert (out - projected(feats, memory[:50])).abs().max() < 1e-5


def test_a_memory_not_yet_loaded_is_checked_when_it_is(neck, fake_store, warnings):
    right, wrong = TextMemoryProjection("some/store"), TextMemoryProjection("some/store", split=None)
    for other in (right, wrong):
        nn.Sequential(other).load_state_dict(nn.Sequential(neck).state_dict())
    assert warnings == []
    # Saved again before the memory was ever used, the hash is still the checkpoint's.
    assert bytes(wrong.state_dict()["memory_sha256"].tolist()).hex() == SHA_A
    right.load_memory()
    assert warnings == []
    wrong.load_memory()
    assert len(warnings) == 1


def test_a_checkpoint_from_before_any_memory_says_nothing(neck, warnings):
    neck.load_state_dict(TextMemoryProjection().state_dict())
    assert warnings == [] and bytes(neck.memory_sha256.tolist()).hex() == SHA_A


def test_mmengines_loader_goes_the_same_way(neck, memory, warnings):
    from mmengine.runner.checkpoint import load_state_dict

    target = nn.Sequential(TextMemoryProjection())
    target[0].set_memory(memory[:50], sha256=SHA_B)
    load_state_dict(target, copy.deepcopy(nn.Sequential(neck).state_dict()), strict=True)
    assert len(warnings) == 1 and bytes(target[0].memory_sha256.tolist()).hex() == SHA_B
