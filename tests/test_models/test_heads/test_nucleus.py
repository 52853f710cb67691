"""Nucleus sampling: the right distribution, and the same captions whatever stands beside an image."""

import pytest
import torch
from small_head import make_head

from synthcap_mm.errors import UserError
from synthcap_mm.models.heads.nucleus import NucleusSampling

SEEDS = [11, 12, 13, 14]


def drawn(logits, n=4000, **options):
    options = {"top_p": 1.0, "temperature": 1.0, **options}
    sampling = NucleusSampling(list(range(n)), 1, **options)
    chosen = sampling(torch.empty(n, 0), torch.tensor(logits).expand(n, -1))
    assert ((chosen == 0).sum(1) == 1).all() and ((chosen == 0) | chosen.isinf()).all()
    return torch.bincount(chosen.argmax(1), minlength=len(logits)) / n


def test_tokens_come_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.1, 0.5, 0.15, 0.25])
    assert (drawn(probabilities.log().tolist()) - probabilities).abs().max() < 0.03  # four standard errors
    half = (probabilities.log() / 0.5).softmax(0)
    assert (drawn(probabilities.log().tolist(), temperature=0.5) - half).abs().max() < 0.03


def test_only_the_nucleus_is_drawn_from():
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    often = drawn(logits, top_p=0.7)
    assert often[0] == 0 and often[2] == 0
    assert (often[[1, 3]] - torch.tensor([2 / 3, 1 / 3])).abs().max() < 0.03
    assert drawn(logits, top_p=0.01)[1] == 1  # the best one is always in


@pytest.mark.parametrize("rules", [{}, {"no_repeat_ngram_size": 1}, {"min_new_tokens": 6}, {"use_cache": False}])
def test_a_caption_does_not_depend_on_the_batch(batch, rules):
    head, (prefix, ids, lengths) = make_head(), batch
    options = {"num_beams": 1, "do_sample": True, "num_return_sequences": 3, "max_new_tokens": 8, **rules}
    out = head.generate(prefix, ids, lengths, seeds=SEEDS, **options)
    assert out["ids"].shape[:2] == (4, 3)
    assert (out["logprobs"].diff(dim=1) <= 0).all()  # best first
    order = [2, 0, 3, 1]
    shuffled = head.generate(prefix[order], ids[order], lengths[order], seeds=[SEEDS[i] for i in order], **options)
    for place, i in enumerate(order):
        one = slice(i, i + 1)
        alone = head.generate(prefix[one], ids[one, : lengths[i]], lengths[one], seeds=SEEDS[one], **options)
        width = alone["ids"].shape[2]
        assert torch.equal(alone["ids"][0], out["ids"][i, :, :width])
        assert torch.equal(alone["ids"][0], shuffled["ids"][place, :, :width])
        torch.testing.assert_close(alone["logprobs"][0], out["logprobs"][i], atol=1e-5, rtol=1e-4)
    others = head.generate(prefix, ids, lengths, seeds=[s + 1 for s in SEEDS], **options)
    assert not torch.equal(others["ids"][..., :3], out["ids"][..., :3])


def test_log_probabilities_are_the_decoders_whatever_the_temperature(batch):
    head, (prefix, ids, lengths) = make_head(), batch
    out = head.generate(prefix, ids, lengths, max_new_tokens=5, do_sample=True, num_beams=1, seeds=SEEDS,
                        temperature=0.3, top_p=0.5, no_repeat_ngram_size=1)  # fmt: skip
    for i in range(4):
        new = out["ids"][i, 0].tolist()
        new = new[: new.index(2) + 1] if 2 in new else new
        row = torch.tensor([ids[i, : lengths[i]].tolist() + new])
        logp = head.logits(prefix[i : i + 1], row, torch.tensor([row.shape[1]])).log_softmax(-1)[0]
        own = sum(logp[lengths[i] + k, token] for k, token in enumerate(new))
        torch.testing.assert_close(out["logprobs"][i, 0], own, atol=1e-4, rtol=1e-4)


def test_wrong_options_are_named(batch):
    head, (prefix, ids, lengths) = make_head(), batch
    for options, named in (
        ({"num_beams": 3, "seeds": SEEDS}, "num_beams"),
        ({"num_beams": 1}, "seeds"),
        ({"num_beams": 1, "seeds": SEEDS, "top_p": 0.0}, "top_p"),
        ({"num_beams": 1, "seeds": SEEDS, "temperature": 0}, "temperature"),
    ):
        with pytest.raises(UserError, match=named):
            head.generate(prefix, ids, lengths, do_sample=True, **options)
