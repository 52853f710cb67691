"""A context that the decoder attends to: in the loss, in logits and in all ways of writing."""

import pytest
import torch
from small_head import VOCAB, make_head

from synthcap_mm.errors import UserError
from synthcap_mm.models.heads import gpt2_caption_head

CONTEXT = 24  # narrower than the decoder


def attending(**options):
    """A head whose cross-attention has opinions too, and a context."""
    head = make_head(cross_attention=True, context_dim=CONTEXT, **options)
    with torch.no_grad():
        for block in head.decoder.transformer.h:
            block.crossattention.c_proj.weight.mul_(30)
            block.crossattention.c_attn.weight.mul_(10)
    return head, torch.randn(4, 5, CONTEXT, generator=torch.Generator().manual_seed(9))


def attend(layer, states, context):
    """Multi-head cross-attention written out."""
    width, heads = layer.embed_dim, layer.num_heads
    q = states @ layer.q_attn.weight + layer.q_attn.bias
    k, v = (context @ layer.c_attn.weight + layer.c_attn.bias).split(width, dim=-1)
    parts = []
    for i in range(heads):
        part = slice(i * width // heads, (i + 1) * width // heads)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / (width // heads) ** 0.5).softmax(-1)
        parts.append(weights @ v[..., part])
    return torch.cat(parts, -1) @ layer.c_proj.weight + layer.c_proj.bias


def test_logits_are_those_of_gpt2s_blocks_with_attention_to_the_context(batch):
    (head, context), (prefix, ids, lengths) = attending(), batch
    head, prefix, context = head.double(), prefix.double(), context.double()
    decoder = head.decoder.transformer
    tokens = torch.cat([prefix, decoder.wte(ids)], 1)
    states = tokens + decoder.wpe.weight[: tokens.shape[1]]
    mapped = context @ head.context_map.weight.T + head.context_map.bias
    visible = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
    for block in decoder.h:
        states = states + block.attn(block.ln_1(states), attention_mask=visible[None, None])[0]
        states = states + attend(block.crossattention, block.ln_cross_attn(states), mapped)
        states = states + block.mlp(block.ln_2(states))
    wanted = head.decoder.lm_head(decoder.ln_f(states))[:, 2:-1]
    got = head.logits(prefix, ids, lengths, context)
    for i in range(4):
        torch.testing.assert_close(got[i, : lengths[i]], wanted[i, : lengths[i]])


def test_every_row_of_a_context_counts_and_only_for_its_own_sample(batch):
    (head, context), (prefix, ids, lengths) = attending(), batch
    before = head.logits(prefix, ids, lengths, context)
    for place in range(5):
        changed = context.clone()
        changed[2, place] += 1
        after = head.logits(prefix, ids, lengths, changed)
        assert (after[2, 0] - before[2, 0]).abs().max() > 1e-3
        assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])


def test_the_loss_teaches_map_and_cross_attention(batch):
    (head, context), (prefix, ids, lengths) = attending(), batch
    labels = torch.where(torch.arange(6)[None] < lengths[:, None], ids, -100)
    loss = head.loss(prefix, ids, lengths, labels, context=context)["loss_caption"]
    assert not torch.equal(loss, head.loss(prefix, ids, lengths, labels, context=-context)["loss_caption"])
    loss.backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 3, "use_cache": False},
        {"num_beams": 3, "repetition_penalty": 1.0},  # transformers' own search
        {"num_beams": 1, "do_sample": True, "num_return_sequences": 2},
    ],
)
def test_batched_equals_single_and_logprobs_are_the_tokens_own(batch, options):
    (head, context), (prefix, ids, lengths) = attending(), batch
    sampled = {"seeds": [1, 2, 3, 4]} if "do_sample" in options else {}
    out = head.generate(prefix, ids, lengths, max_new_tokens=8, context=context, **options, **sampled)
    other = head.generate(prefix, ids, lengths, max_new_tokens=8, context=-context, **options, **sampled)
    assert not torch.equal(out["logprobs"], other["logprobs"])
    for i in range(4):
        one = slice(i, i + 1)
        seeds = {"seeds": [i + 1]} if sampled else {}
        row = (prefix[one], ids[one, : lengths[i]], lengths[one])
        single = head.generate(*row, max_new_tokens=8, context=context[one], **options, **seeds)
        assert torch.equal(single["ids"][0], out["ids"][i, :, : single["ids"].shape[2]])
        torch.testing.assert_close(single["scores"][0], out["scores"][i], atol=1e-5, rtol=1e-4)
        for n, new in enumerate(out["ids"][i].tolist()):
            new = new[: new.index(2) + 1] if 2 in new else new
            said = torch.tensor([ids[i, : lengths[i]].tolist() + new])
            logits = head.logits(prefix[one], said, torch.tensor([said.shape[1]]), context[one])
            logp = logits.log_softmax(-1)[0]
            own = sum(logp[lengths[i] + k, token] for k, token in enumerate(new))
            torch.testing.assert_close(out["logprobs"][i, n], own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3}, {"num_beams": 4, "use_cache": False}])
def test_our_beam_search_finds_what_transformers_does(options, monkeypatch):
    head, _ = attending()
    with torch.no_grad():
        head.decoder.lm_head.weight[2] *= 1.8  # captions end at different times
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, 7, (24,), generator=generator)
    ids = torch.randint(3, VOCAB, (24, 6), generator=generator)
    batch = torch.randn(24, 3, head.width, generator=generator), ids, lengths
    options = {"max_new_tokens": 12, "context": torch.randn(24, 5, CONTEXT, generator=generator), **options}
    ours = head.generate(*batch, **options)
    monkeypatch.setattr(gpt2_caption_head, "BEAM_OPTIONS", frozenset())
    theirs = head.generate(*batch, **options)
    for field in ("scores", "logprobs"):
        torch.testing.assert_close(ours[field], theirs[field], atol=1e-5, rtol=1e-4)
    width = min(ours["ids"].shape[2], theirs["ids"].shape[2])
    assert torch.equal(ours["ids"][..., :width], theirs["ids"][..., :width])


def test_a_context_of_the_decoders_width_needs_no_map(batch):
    head = make_head(cross_attention=True)
    assert [*head.context_map.parameters()] == []
    assert head.logits(*batch, torch.randn(4, 5, head.width)).isfinite().all()


def test_a_context_that_nobody_attends_to_is_refused_and_so_is_its_absence(batch):
    with pytest.raises(UserError, match="cross_attention=True, and no"):
        attending()[0].logits(*batch)
    with pytest.raises(UserError, match="does not attend"):
        make_head().generate(*batch, context=torch.randn(4, 5, CONTEXT))
