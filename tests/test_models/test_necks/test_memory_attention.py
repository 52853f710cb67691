import pytest
import torch
import torch.nn.functional as F

from synthcap_mm.models.necks.memory_attention import memory_attention, top_memory

TEMPERATURE = 0.05


def unit(*shape, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).to(dtype)


def plain(query, memory, temperature=TEMPERATURE, excluded=None):
    logits = query @ memory.T / temperature
    if excluded is not None:
        hidden = F.one_hot(excluded.clamp_min(0), len(memory)).bool() & (excluded >= 0)[:, None]
        logits = logits.masked_fill(hidden, float("-inf"))
    return logits.softmax(-1) @ memory


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


EXCLUDED = [None, torch.tensor([0, 36, 35, -1, 7, 8])]


@pytest.mark.parametrize("excluded", EXCLUDED, ids=["all", "excluding"])
@pytest.mark.parametrize("block_size", [1, 4, 7, 37, 100])
def test_forward_and_gradient_equal_autograd_of_the_formula(excluded, block_size):
    query, memory = unit(6, 5), unit(37, 5)
    grad = torch.randn(6, 5, dtype=torch.float64)
    ours, theirs = query.clone().requires_grad_(), query.clone().requires_grad_()
    out, expected = (
        memory_attention(ours, memory, TEMPERATURE, excluded, block_size),
        plain(theirs, memory, excluded=excluded),
    )
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        memory_attention(query, memory, TEMPERATURE, excluded, block_size), expected.detach(), rtol=1e-10, atol=1e-12
    )
    out.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("noise", [0.3, 0.1, 0.03], ids=["soft", "sharp", "one-hot"])
def test_float32_is_exact_at_clips_temperature(noise):
    memory = unit(5000, 64, dtype=torch.float32)
    query = F.normalize(memory[:32] + noise * torch.randn(32, 64), dim=1)
    ours, theirs = query.clone().requires_grad_(), query.double().requires_grad_()
    out = memory_attention(ours, memory, 0.01, block_size=1000)
    expected = plain(theirs, memory.double(), 0.01)
    assert (out - expected).abs().max() < 1e-5
    grad = torch.randn(32, 64)
    out.backward(grad)
    expected.backward(grad.double())
    # Also where the softmax is saturated and the gradient all but vanishes.
    assert (ours.grad - theirs.grad).abs().max() < 1e-4 * theirs.grad.abs().max() + 1e-9
    with torch.no_grad():
        assert (memory_attention(query, memory, 0.01, torch.full((32,), -1)) - out).abs().max() < 1e-5


def test_no_matrix_of_batch_by_memory(monkeypatch):
    """Every tensor that a forward and a backward make is seen, and none is that large."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.numel() != memory.numel():
                    largest = max(largest, tensor.numel())
            return out

    memory, excluded = unit(4000, 8, dtype=torch.float32), torch.arange(64)
    for hidden in (None, excluded):
        query = unit(64, 8, dtype=torch.float32).requires_grad_()
        with Watch():
            memory_attention(query, memory, 0.05, hidden, block_size=128).sum().backward()
    assert 64 * 128 <= largest < 64 * 4000 / 10


def test_bad_arguments():
    for query, memory, excluded in (
        (unit(2, 4), unit(3, 5), None),  # of other widths
        (unit(2, 4), unit(3, 4).float(), None),  # of other precisions
        (unit(2, 4), unit(0, 4), None),  # nothing remembered
        (unit(2, 4), unit(1, 4), torch.tensor([-1, 0])),  # nothing left
    ):
        with pytest.raises(ValueError):
            memory_attention(query, memory, 0.1, excluded)
    torch.testing.assert_close(memory_attention(unit(1, 4), memory := unit(1, 4), 0.1, torch.tensor([-1])), memory)


@pytest.mark.parametrize("block_size", [3, 10, 100])
def test_top_memory(block_size):
    query, memory = unit(5, 4), unit(37, 4)
    weights, rows = top_memory(query, memory, TEMPERATURE, 6, block_size)
    expected, expected_rows = (query @ memory.T / TEMPERATURE).softmax(-1).topk(6)
    torch.testing.assert_close(weights, expected)
    assert torch.equal(rows, expected_rows)
    everything, _ = top_memory(query, memory, TEMPERATURE, 37, block_size)
    torch.testing.assert_close(everything.sum(1), torch.ones(5, dtype=torch.float64))
    for k in (0, 38):
        with pytest.raises(ValueError, match=r"k .* 37"):
            top_memory(query, memory, TEMPERATURE, k)
