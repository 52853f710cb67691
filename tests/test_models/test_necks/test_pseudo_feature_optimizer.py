import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from synthcap_mm.errors import UserError
from synthcap_mm.models.necks import PseudoFeatureOptimizer, refine
from synthcap_mm.models.necks.rank_gathering import gather_rows
from synthcap_mm.structures import PrefixBatch

DIM = 12


def unit(*shape, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1).to(dtype)


def pairs(count, dtype=torch.float64):
    """Captions, and images that are somewhat like their caption."""
    text = unit(count, DIM, dtype=torch.float64)
    return F.normalize(text + 1.2 * unit(count, DIM, dtype=torch.float64), dim=1).to(dtype), text.to(dtype)


def cosine(a, b):
    return F.cosine_similarity(a.double(), b.double(), dim=1)


def row_loss(v, v0, t, texts, images, temperature, pull):
    """The loss of one row, written out: the caption or image of the row comes first among its negatives."""
    from_image = torch.cat([t[None], texts]) @ v / temperature
    from_text = torch.cat([v[None], images]) @ t / temperature
    contrast = -(from_image.log_softmax(0)[0] + from_text.log_softmax(0)[0]) / 2
    return contrast + pull * (1 - (v / v.norm()) @ (v0 / v0.norm()))


def reference_refine(feats, text, negatives_of, steps, lr, temperature, pull):
    """Row after row in float64, by autograd of :func:`row_loss`."""
    rows = []
    for i, (v0, t) in enumerate(zip(feats, text)):
        v = v0.clone()
        for _ in range(steps):
            v.requires_grad_()
            (g,) = torch.autograd.grad(row_loss(v, v0, t, *negatives_of(i), temperature, pull), v)
            v = v.detach()
            v = F.normalize(v - lr * (g - (g @ v) * v), dim=0)
        rows.append(v)
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


SETTINGS = {"steps": 5, "lr": 0.02, "temperature": 0.2, "pull": 0.7}


# ----------------------------------------------------------------------- refine
@pytest.mark.parametrize("grad_mode", ["grad", "no_grad", "inference"])
def test_in_batch_equals_the_loss_written_out(grad_mode):
    feats, text = pairs(8)
    groups = torch.tensor([5, 5, -1, -1, 7, 8, 7, 7])
    negatives = {0: [2, 3, 4, 5, 6, 7], 1: [2, 3, 4, 5, 6, 7], 2: [0, 1, 3, 4, 5, 6, 7], 3: [0, 1, 2, 4, 5, 6, 7]}
    negatives |= {4: [0, 1, 2, 3, 5], 6: [0, 1, 2, 3, 5], 7: [0, 1, 2, 3, 5], 5: [0, 1, 2, 3, 4, 6, 7]}
    expected = reference_refine(feats, text, lambda i: (text[negatives[i]], feats[negatives[i]]), **SETTINGS)
    with torch.set_grad_enabled(grad_mode == "grad"), torch.inference_mode(grad_mode == "inference"):
        ours = refine(feats.clone(), text.clone(), groups.clone(), **SETTINGS)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)
    assert not ours.requires_grad and (cosine(ours, text) > cosine(feats, text)).all()
    single = refine(feats.float(), text.float(), groups, **SETTINGS)
    assert single.dtype == torch.float32 and (single - expected).abs().max() < 1e-5


def test_bank_equals_the_loss_written_out():
    feats, text = pairs(6)
    bank_image, bank_text = pairs(30)
    bank_groups = torch.arange(30) % 10
    groups = torch.tensor([0, 1, 2, -1, 11, 9])
    bank_groups[29] = -1
    others = [(bank_groups != g) | (bank_groups < 0) for g in groups]
    expected = reference_refine(feats, text, lambda i: (bank_text[others[i]], bank_image[others[i]]), **SETTINGS)
    bank = {"negative_text": bank_text, "negative_image": bank_image, "negative_groups": bank_groups}
    torch.testing.assert_close(refine(feats, text, groups, **bank, **SETTINGS), expected, rtol=1e-9, atol=1e-11)


def test_with_a_bank_a_row_depends_on_no_other():
    feats, text = pairs(20, torch.float32)
    bank_image, bank_text = pairs(50, torch.float32)
    groups = torch.arange(20)
    bank = {"negative_text": bank_text, "negative_image": bank_image, "target_cosine": 0.9}
    together = refine(feats, text, groups, **bank, **SETTINGS)
    alone = [refine(feats[i : i + 1], text[i : i + 1], groups[i : i + 1], **bank, **SETTINGS) for i in range(20)]
    assert (together - torch.cat(alone)).abs().max() < 1e-6
    moved = (together - feats).abs().amax(1)
    assert (moved > 0.01).any()  # there was something to compare


def test_the_same_words_are_no_negative():
    """A bank drawn from the store holds the row's own caption, maybe under another group."""
    feats, text = pairs(4)
    bank_image, bank_text = pairs(9)
    with_own = {
        "negative_text": torch.cat([bank_text, text.half().double()]),
        "negative_image": torch.cat([bank_image, feats]),
    }
    for i in range(4):
        # Of the four pairs in the bank only the row's own is no negative.
        rest = [j for j in range(4) if j != i]
        without = {"negative_text": torch.cat([bank_text, text[rest].half().double()])}
        without["negative_image"] = torch.cat([bank_image, feats[rest]])
        row = slice(i, i + 1)
        torch.testing.assert_close(
            refine(feats[row], text[row], **with_own, **SETTINGS), refine(feats[row], text[row], **without, **SETTINGS)
        )


def test_a_row_without_negatives_stays():
    feats, text = pairs(3)
    out = refine(feats, text, torch.tensor([4, 4, 4]), **SETTINGS)
    torch.testing.assert_close(out, feats)
    assert torch.equal(refine(feats, text, steps=0), feats)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lr", [0.003, 0.3])
def test_target_is_a_level_that_is_met_and_not_passed(dtype, lr):
    feats, text = pairs(200, dtype)
    before = cosine(feats, text)
    level = before.median().item()
    free = refine(feats, text, steps=40, lr=lr, temperature=0.1, pull=0.0)
    out = refine(feats, text, steps=40, lr=lr, temperature=0.1, pull=0.0, target_cosine=level)
    after = cosine(out, text)
    above = F.cosine_similarity(feats, text, dim=1) >= level
    assert 50 < above.sum() < 150
    assert torch.equal(out[above], feats[above])
    assert after[~above].max() <= level + 0.01
    # Left alone they would go far beyond; held at the level they are there, not before it.
    assert cosine(free, text)[~above].min() > level + 0.05
    assert after[~above].min() > level - 1e-3
    assert (out.norm(dim=1) - 1).abs().max() < 1e-5


def test_refine_refuses_bad_input():
    feats, text = pairs(4)
    broken = feats.clone()
    broken[1, 0] = float("nan")
    for wrong in (
        lambda: refine(broken, text),
        lambda: refine(feats, text, negative_text=text, negative_image=broken),
        lambda: refine(feats, text[:3]),
        lambda: refine(feats, text, negative_text=text),
        lambda: refine(feats, text, negative_text=text, negative_image=text[:2]),
    ):
        with pytest.raises(ValueError):
            wrong()
    bad_settings = [("temperature", 0.0), ("steps", -1), ("lr", 0.0), ("pull", -1.0), ("target_cosine", 1.5)]
    for option, value in bad_settings:
        with pytest.raises(UserError, match=option):
            refine(feats, text, **{option: value})


# --------------------------------------------------------------- neck, per sample
def test_per_sample_neck_is_refine():
    feats, text = pairs(6, torch.float32)
    groups = torch.tensor([1, 1, 2, 3, -1, -1])
    batch = PrefixBatch(feats, "pseudo", text_feats=text, group_ids=groups)
    neck = PseudoFeatureOptimizer(target_cosine=0.8, **SETTINGS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, losses = neck(batch, "train")
    assert losses == {} and not list(neck.parameters()) and torch.equal(batch.feats, feats)
    assert torch.equal(out.feats, refine(feats, text, groups, target_cosine=0.8, **SETTINGS))
    for phase, source in (("predict", "pseudo"), ("train", "real"), ("train", "text")):
        assert (same := batch.replace(source=source)) is neck(same, phase)[0]
    with pytest.raises(ValueError, match="PseudoFeatureOptimizer"):
        neck(batch.replace(text_feats=None), "train")


@pytest.mark.parametrize(
    "options", [{"mode": "amortized"}, {"mode": "amortised"}, {"phases": ["train", "predict"]}, {"lr": 0}]
)
def test_neck_refuses_bad_options(options):
    with pytest.raises(UserError, match="PseudoFeatureOptimizer"):
        PseudoFeatureOptimizer(**options)


# ---------------------------------------------------------------- neck, amortised
def amortised(moving=True, dtype=torch.float32, **options):
    torch.manual_seed(1)
    neck = PseudoFeatureOptimizer("amortised", embed_dim=DIM, **{"temperature": 0.2, "pull": 0.7} | options)
    if moving:
        torch.nn.init.normal_(neck.adapter[2].weight, std=0.3)
    return neck.to(dtype)


def gradients(module):
    return [p.grad.clone() for p in module.parameters()]


def test_amortised_starts_as_the_identity_bit_by_bit():
    feats, text = pairs(50, torch.float32)
    neck = amortised(moving=False, phases=["train", "predict"])
    batch = PrefixBatch(feats, "pseudo", text_feats=text)
    assert torch.equal(neck(batch, "train")[0].feats, feats)
    assert torch.equal(neck(batch, "predict")[0].feats, feats)


def test_amortised_sees_the_image_only_and_stays_on_the_sphere():
    feats, text = pairs(10, torch.float32)
    neck = amortised(phases=["train", "predict"])
    batch = PrefixBatch(feats, "pseudo", text_feats=text)
    trained, losses = neck(batch, "train")
    predicted, none = neck(batch.replace(text_feats=None), "predict")
    assert set(losses) == {"loss_refine"} and none == {}
    assert torch.equal(trained.feats, predicted.feats) and not torch.allclose(trained.feats, feats)
    assert (trained.feats.norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("level", [None, 0.65])
def test_amortised_loss_and_gradient_equal_the_loss_written_out(level):
    feats, text = pairs(8)
    groups = torch.tensor([5, 5, -1, -1, 7, 8, 7, 7])
    neck = amortised(dtype=torch.float64, target_cosine=level, loss_weight=0.5)
    batch = PrefixBatch(feats, "pseudo", text_feats=text, group_ids=groups)
    loss = neck(batch, "train")[1]["loss_refine"]
    loss.backward()
    ours = gradients(neck)
    neck.zero_grad()

    v = F.normalize(feats + neck.adapter(feats), dim=1)
    below = cosine(v, text) < (2 if level is None else level)
    assert level is None or 0 < below.sum() < 8
    images = torch.stack([row if low else row.detach() for row, low in zip(v, below)])
    total = 0
    for i in range(8):
        others = [j for j in range(8) if j != i and not (groups[i] == groups[j] and groups[i] >= 0)]
        whole = row_loss(images[i], feats[i], text[i], text[others], images[others], 0.2, 0.0)
        total = total + (whole if below[i] else 0) + 0.7 * (1 - v[i] @ feats[i])
    expected = total / 8 * 0.5
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, gradients(neck), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("reaches", [False, True])
def test_caption_loss_reaches_the_adapter_only_when_told(reaches):
    feats, text = pairs(8, torch.float32)
    neck = amortised(backprop_caption_loss=reaches)
    out, _ = neck(PrefixBatch(feats, "pseudo", text_feats=text), "train")
    assert out.feats.requires_grad == reaches
    if reaches:
        out.feats.square().sum().backward()
        assert neck.adapter[0].weight.grad is not None


# -------------------------------------------------------------------- two ranks
GROUPS = torch.tensor([5, 5, -1, -1, 7, 8, 7, 7, 5, 9])
LEVEL = 0.75


class OneNeck(torch.nn.Module):
    """DDP wants a forward that gives the loss."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, batch):
        return self.neck(batch, "train")[1]["loss_refine"]


def _batch(rows):
    torch.manual_seed(0)
    feats, text = pairs(10)
    return PrefixBatch(feats[rows], "pseudo", text_feats=text[rows], group_ids=GROUPS[rows])


def _rank(rank, folder):
    os.environ.update(GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    result = {}
    for name, rows in {"even": [range(5), range(5, 10)], "uneven": [range(7), range(7, 10)]}.items():
        batch = _batch(list(rows[rank]))
        result[name, "gathered"] = gather_rows(batch.group_ids)
        result[name, "refined"] = PseudoFeatureOptimizer(target_cosine=LEVEL, **SETTINGS)(batch, "train")[0].feats
        result[name, "rank"] = PseudoFeatureOptimizer(negatives="rank", **SETTINGS)(batch, "train")[0].feats
        wrapped = DistributedDataParallel(OneNeck(amortised(dtype=torch.float64, target_cosine=LEVEL)))
        loss = wrapped(batch)
        loss.backward()
        result[name, "loss"], result[name, "gradients"] = loss.detach(), gradients(wrapped)
    torch.save(result, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_ranks_are_one_batch(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    whole = _batch(list(range(10)))
    refined = PseudoFeatureOptimizer(target_cosine=LEVEL, **SETTINGS)(whole, "train")[0].feats
    neck = amortised(dtype=torch.float64, target_cosine=LEVEL)
    loss = neck(whole, "train")[1]["loss_refine"]
    loss.backward()
    for name, split in (("even", 5), ("uneven", 7)):
        for result, start in ((first, 0), (second, split)):
            rows, begin = result[name, "gathered"]
            assert torch.equal(rows, GROUPS) and begin == start
            torch.testing.assert_close(result[name, "loss"], loss.detach())
            torch.testing.assert_close(result[name, "gradients"], gradients(neck), rtol=1e-8, atol=1e-12)
        together = torch.cat([first[name, "refined"], second[name, "refined"]])
        torch.testing.assert_close(together, refined, rtol=1e-9, atol=1e-11)
        own = refine(whole.feats[:split], whole.text_feats[:split], GROUPS[:split], **SETTINGS)
        torch.testing.assert_close(first[name, "rank"], own, rtol=1e-9, atol=1e-11)
        assert not torch.allclose(own, refine(whole.feats, whole.text_feats, GROUPS, **SETTINGS)[:split])
