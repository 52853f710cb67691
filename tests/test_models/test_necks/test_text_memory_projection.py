import pytest
import torch
import torch.nn.functional as F

from synthcap_mm.errors import UserError
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.models.necks import TextMemoryProjection
from synthcap_mm.structures import PrefixBatch


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
def memory():
    return unit(300, 16)


@pytest.fixture()
def neck(memory):
    neck = TextMemoryProjection(block_size=64)
    neck.bind(CaptionMemory(memory, rows=torch.arange(300)))
    return neck


# ------------------------------------------------------------------ the formula
@pytest.mark.parametrize("phase", ["train", "predict"])
def test_equals_the_formula(neck, memory, phase):
    feats = unit(10, 16)
    batch = PrefixBatch(feats, "pseudo")
    out, losses = neck(batch, phase)
    assert losses == {} and out.source == "pseudo" and batch.feats is feats
    assert (out.feats - projected(feats, memory)).abs().max() < 1e-5
    assert (out.feats.norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("needs_grad", [False, True])
def test_exclude_self_hides_the_own_row_in_training_only(memory, needs_grad):
    rows = torch.randperm(1000)[:300].sort().values  # not contiguous
    neck = TextMemoryProjection(exclude_self=True, block_size=64, temperature=0.05)
    neck.bind(CaptionMemory(memory, rows=rows))
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
    neck.bind(CaptionMemory(unit(1, 4), rows=torch.tensor([7])))
    batch = PrefixBatch(unit(2, 4), "pseudo", memory_rows=torch.tensor([3, 7]))
    with pytest.raises(ValueError, match="own row"):
        neck(batch, "train")
    with pytest.raises(ValueError, match="memory_rows"):
        neck(batch.replace(memory_rows=None), "train")
    neck(batch, "predict")


def test_a_swapped_memory_without_rows_excludes_nothing(memory):
    neck = TextMemoryProjection(exclude_self=True)
    neck.bind(CaptionMemory(memory))
    feats = unit(4, 16)
    out, _ = neck(PrefixBatch(feats, "pseudo", memory_rows=torch.arange(4)), "train")
    assert (out.feats - projected(feats, memory)).abs().max() < 1e-5


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
        assert neck.memory.features.dtype == torch.float32 and torch.equal(neck.memory.features, memory)
    out = neck(PrefixBatch(feats.half(), "real"), "predict")[0].feats
    assert out.dtype == torch.float32 and (out - projected(feats.half(), memory)).abs().max() < 1e-5


def test_memory_follows_the_features(neck):
    memory = neck.bound(torch.device("meta"))
    assert memory is neck.memory and memory.features.device.type == memory.rows.device.type == "meta"


# ------------------------------------------------------------------- refusals
def test_not_finite_or_of_another_width(neck):
    feats = unit(5, 16)
    feats[2, 3], feats[4, 0] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="row 2"):
        neck(PrefixBatch(feats, "real"), "predict")
    with pytest.raises(ValueError, match="encoder"):
        neck(PrefixBatch(unit(2, 5), "real"), "predict")


def test_without_a_memory():
    with pytest.raises(UserError):
        TextMemoryProjection()(PrefixBatch(unit(1, 4), "real"), "predict")


def test_a_state_dict_holds_nothing_of_the_memory(neck):
    assert neck.state_dict() == {} and [name for name, _ in neck.named_buffers()] == []
