"""Low-rank adapters: what learns, that nothing else moves, and that merging changes nothing."""

import pytest
import torch
from small_head import VOCAB, WIDTH

from synthcap_mm.errors import UserError
from synthcap_mm.models.heads import GPT2CaptionHead, lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained decoder, as a folder of its kind is."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64}
    path = tmp_path_factory.mktemp("lora") / "gpt2"
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(path)
    return str(path)


def adapted(folder, **options):
    torch.manual_seed(1)
    return GPT2CaptionHead(VOCAB, 1, 2, 0, pretrained=folder, dropout=0.0, **options)


def plain(decoder):
    """Weights by the names that they have without adapters."""
    return {
        name.replace(".base_layer", ""): value.detach().clone()
        for name, value in decoder.state_dict().items()
        if "lora_" not in name
    }


def test_adapters_and_cross_attention_learn_and_nothing_else_moves(folder, batch):
    pytest.importorskip("peft")
    head = adapted(folder, cross_attention=True, lora={"rank": 4})
    context = torch.randn(4, 3, WIDTH)
    start = adapted(folder, cross_attention=True)
    # The adapters begin at zero.
    torch.testing.assert_close(head.logits(*batch, context), start.logits(*batch, context), atol=0, rtol=0)
    before = plain(head.decoder)
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.5)
    prefix, ids, lengths = batch
    labels = torch.where(torch.arange(6)[None] < lengths[:, None], ids, -100)
    for _ in range(3):
        optimizer.zero_grad()
        head.loss(prefix, ids, lengths, labels, context=context)["loss_caption"].backward()
        optimizer.step()
    moved = {name for name, value in plain(head.decoder).items() if not torch.equal(value, before[name])}
    new = {name for name in before if "crossattention" in name or "ln_cross_attn" in name}
    assert moved == new
    learns = {name for name, p in head.decoder.named_parameters() if p.requires_grad}
    layers = [f"transformer.h.{i}.attn.{part}" for i in (0, 1) for part in ("c_attn", "c_proj")]
    assert learns == new | {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    shapes = {
        name.rsplit(".", 3)[-3]: p.shape
        for name, p in head.decoder.named_parameters()
        if "h.0.attn.c_attn.lora" in name
    }
    assert shapes == {"lora_A": (4, WIDTH), "lora_B": (3 * WIDTH, 4)}


def test_merged_weights_are_w_plus_the_scaled_product_and_say_the_same(folder, batch):
    pytest.importorskip("peft")
    head = adapted(folder, lora={"rank": 4, "alpha": 10}).double()
    with torch.no_grad():
        for name, weight in head.decoder.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    prefix, ids, lengths = batch
    wanted = head.logits(prefix.double(), ids, lengths)
    layer = head.decoder.transformer.h[1].attn.c_attn
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    weight = layer.base_layer.weight + 10 / 4 * (b @ a).T
    head.merge_lora()
    torch.testing.assert_close(head.decoder.transformer.h[1].attn.c_attn.weight, weight)
    torch.testing.assert_close(head.logits(prefix.double(), ids, lengths), wanted)
    assert {*head.state_dict()} == {*adapted(folder).state_dict()}


def test_there_must_be_something_to_adapt(folder):
    with pytest.raises(UserError, match="pretrained"):
        GPT2CaptionHead(VOCAB, 1, 2, 0, lora={"rank": 4})


def test_a_missing_peft_names_the_command(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'synthcap_mm\[lora\]'"):
        adapted(folder, lora={})
    assert lora  # imported without it
