"""A decoder small enough for a test, that has opinions."""

import torch

from synthcap_mm.models.heads import GPT2CaptionHead

VOCAB, WIDTH = 50, 32


def make_head(**options):
    torch.manual_seed(0)
    fields = {"vocab_size": VOCAB, "bos_id": 1, "eos_id": 2, "pad_id": 0, "width": WIDTH, "layers": 2, "heads": 2}
    head = GPT2CaptionHead(**{**fields, "positions": 64, **options}).eval()
    # An untrained decoder repeats its input, since both ends share their embeddings; this one has opinions.
    head.decoder.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, WIDTH))
    return head
