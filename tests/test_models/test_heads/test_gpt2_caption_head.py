import pytest
import torch
import torch.nn.functional as F
from small_head import VOCAB, make_head

from synthcap_mm.errors import UserError
from synthcap_mm.models.heads import GPT2CaptionHead


def test_loss_equals_plain_cross_entropy_on_the_captions_tokens(batch):
    head, (prefix, ids, lengths) = make_head(label_smoothing=0.1), batch
    labels = ids.clone()
    labels[:, 0] = -100
    labels[torch.arange(6)[None] >= lengths[:, None]] = -100
    expected = []
    for i in range(4):
        n = int(lengths[i])
        embeds = torch.cat([prefix[i : i + 1], head.decoder.transformer.wte(ids[i : i + 1, :n])], 1)
        logits = head.decoder(inputs_embeds=embeds).logits[0, 3 - 1 : -1]
        expected += [F.cross_entropy(logits[t], ids[i, t], label_smoothing=0.1) for t in range(1, n)]
    loss = head.loss(prefix, ids, lengths, labels)["loss_caption"]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_the_weighted_loss_and_its_gradient_are_the_formulas_in_float64(batch):
    """Tokens weighted by their row's weight, divided by the weights' sum; label smoothing written out."""
    head, (prefix, ids, lengths) = make_head(label_smoothing=0.1).double(), batch
    prefix = prefix.double().requires_grad_()
    labels = torch.where(torch.arange(6)[None] < lengths[:, None], ids, -100)
    weights = torch.tensor([0.9, 0.0, 0.31, 0.12], dtype=torch.float64)
    # The loss is computed in float32 whatever the model is; its gradients are compared at that precision.
    loss = head.loss(prefix, ids, lengths, labels, weights)["loss_caption"]
    logp = head.logits(prefix, ids, lengths).log_softmax(-1)
    total = norm = 0.0
    for i in range(4):
        for t in range(int(lengths[i])):
            nll = -(0.9 * logp[i, t, ids[i, t]] + 0.1 * logp[i, t].mean())
            total, norm = total + weights[i] * nll, norm + weights[i]
    torch.testing.assert_close(loss.double(), total / norm, rtol=1e-6, atol=0)
    learnt = [prefix, *(p for p in head.parameters() if p.requires_grad)]
    got, wanted = (torch.autograd.grad(x, learnt, retain_graph=True) for x in (loss, total / norm))
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert got[0][1].abs().max() == 0  # the row of weight 0 teaches nothing
    assert got[0][0].abs().max() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "use_cache": False},
    ],
)
def test_batched_equals_single_and_logprobs_are_the_tokens_own(batch, options):
    head, (prefix, ids, lengths) = make_head(), batch
    out = head.generate(prefix, ids, lengths, max_new_tokens=8, **options)
    for i in range(4):
        one = slice(i, i + 1)
        single = head.generate(prefix[one], ids[one, : lengths[i]], lengths[one], max_new_tokens=8, **options)
        width = single["ids"].shape[2]
        assert torch.equal(single["ids"][0], out["ids"][i, :, :width])
        torch.testing.assert_close(single["scores"][0], out["scores"][i], atol=1e-5, rtol=1e-4)
        for n, new in enumerate(out["ids"][i].tolist()):
            new = new[: new.index(2) + 1] if 2 in new else new
            row = torch.tensor([ids[i, : lengths[i]].tolist() + new])
            logp = head.logits(prefix[one], row, torch.tensor([row.shape[1]])).log_softmax(-1)[0]
            own = sum(logp[lengths[i] + k, token] for k, token in enumerate(new))
            torch.testing.assert_close(out["logprobs"][i, n], own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.8, "num_beams": 1},
        {"repetition_penalty": 3.0, "num_beams": 3},
        {"no_repeat_ngram_size": 1, "num_beams": 3},
    ],
)
def test_the_cache_changes_nothing_for_rules_on_repetition_either(batch, options):
    """Tokenizers of GPT-2 and CLIP pad with the end token: what stands for the prompt must not count as said."""
    head, (prefix, ids, lengths) = make_head(pad_id=2), batch
    ids = ids.masked_fill(ids == 0, 2)
    with_cache = head.generate(prefix, ids, lengths, max_new_tokens=8, **options)
    without = head.generate(prefix, ids, lengths, max_new_tokens=8, use_cache=False, **options)
    assert torch.equal(with_cache["ids"], without["ids"])
    torch.testing.assert_close(with_cache["scores"], without["scores"], atol=1e-5, rtol=1e-4)
    if options:
        plain = head.generate(prefix, ids, lengths, max_new_tokens=8, num_beams=options["num_beams"])
        assert not torch.equal(with_cache["ids"], plain["ids"])


@pytest.mark.parametrize("width, deviation", [(768, 0.02), (192, 0.04)])
def test_a_narrow_decoder_begins_with_larger_weights(width, deviation):
    weight = make_head(width=width, layers=1).decoder.transformer.h[0].attn.c_attn.weight
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)


def test_the_config_may_shorten_captions(batch):
    head, (prefix, ids, lengths) = make_head(generation={"max_new_tokens": 3, "num_beams": 1}), batch
    assert head.generate(prefix, ids, lengths, max_new_tokens=8)["ids"].shape[2] <= 3
    assert head.generate(prefix, ids, lengths, max_new_tokens=2)["ids"].shape[2] <= 2


def test_pretrained_from_a_folder(tmp_path):
    import transformers

    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt2")
    head = GPT2CaptionHead(VOCAB, 1, 2, 0, dropout=0.35, pretrained=str(tmp_path / "gpt2"))
    assert {m.p for m in head.modules() if isinstance(m, torch.nn.Dropout)} == {0.35}
    assert (head.width, head.positions) == (16, 32)
    assert torch.equal(head.decoder.transformer.wte.weight, model.transformer.wte.weight)
    with pytest.raises(UserError, match=r"50.*60"):
        GPT2CaptionHead(60, 1, 2, 0, pretrained=str(tmp_path / "gpt2"))


@pytest.mark.parametrize("kept", ["gelu_new", "relu"])
def test_a_pretrained_decoder_keeps_its_activation(tmp_path, kept):
    import transformers

    sizes = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, activation_function=kept)).double().eval()
    with torch.no_grad():  # large enough for the activation to bend
        for weight in model.parameters():
            weight.mul_(20)
    model.save_pretrained(tmp_path / "gpt2")
    head = GPT2CaptionHead(VOCAB, 1, 2, 0, pretrained=str(tmp_path / "gpt2")).double().eval()
    ids = torch.arange(24).view(3, 8)
    torch.testing.assert_close(head.decoder(ids).logits, model(ids).logits, rtol=1e-9, atol=1e-9)


def test_a_sequence_too_long_is_refused(batch):
    head, (prefix, ids, lengths) = make_head(positions=8), batch
    with pytest.raises(ValueError, match="positions"):
        head.logits(prefix, ids, lengths)
