"""Our beam search finds what transformers' does."""

import pytest
import torch
from small_head import VOCAB, WIDTH, make_head

from synthcap_mm.models.heads import gpt2_caption_head

OPTIONS = [
    {"num_beams": 2},
    {"num_beams": 5, "num_return_sequences": 5},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.0},
    {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -2.0},
    {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 2.0},
    {"num_beams": 3, "num_return_sequences": 3, "early_stopping": True},
    {"num_beams": 3, "num_return_sequences": 3, "early_stopping": "never", "length_penalty": 1.5},
    {"num_beams": 3, "num_return_sequences": 3, "min_new_tokens": 6},
    {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 2},
    {"num_beams": 5, "num_return_sequences": 5, "use_cache": False},
    {"num_beams": 3, "max_new_tokens": 1},
]


def endings(pad):
    """A decoder whose captions end early for some images and late for others, and 24 images."""
    head = make_head(pad_id=pad)
    with torch.no_grad():
        head.decoder.lm_head.weight[2] *= 1.8
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, 7, (24,), generator=generator)
    ids = torch.randint(3, VOCAB, (24, 6), generator=generator)
    ids[torch.arange(6)[None] >= lengths[:, None]] = pad
    return head, (torch.randn(24, 3, WIDTH, generator=generator), ids, lengths)


def words(row, eos):
    row = row.tolist()
    return row[: row.index(eos)] if eos in row else row


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pad", [0, 2])  # 2: padding is the end token, as of GPT-2 and CLIP
def test_the_same_captions_scores_and_log_probabilities(options, pad, monkeypatch):
    head, batch = endings(pad)
    options = {"max_new_tokens": 12, **options}
    ours = head.generate(*batch, **options)
    monkeypatch.setattr(gpt2_caption_head, "BEAM_OPTIONS", frozenset())
    theirs = head.generate(*batch, **options)
    assert ours["scores"].shape == theirs["scores"].shape
    for field in ("scores", "logprobs"):
        torch.testing.assert_close(ours[field], theirs[field], atol=1e-5, rtol=1e-4)
    found = [[words(row, 2) for row in rows] for rows in ours["ids"]]
    assert found == [[words(row, 2) for row in rows] for rows in theirs["ids"]]
    if options["max_new_tokens"] > 1:
        ends = {len(rows[0]) for rows in found}
        assert len(ends) > 2 or options.get("length_penalty", 0) > 1  # images were done at different times


def test_images_that_are_done_leave_the_batch(monkeypatch):
    head, batch = endings(0)
    seen = []
    lm_head = head.decoder.lm_head.forward
    monkeypatch.setattr(head.decoder.lm_head, "forward", lambda x: (seen.append(len(x)), lm_head(x))[1])
    head.generate(*batch, max_new_tokens=12, num_beams=3)
    assert seen[:2] == [24, 72]  # the prompt once an image, then the beams
    assert seen[1:] == sorted(seen[1:], reverse=True) and seen[-1] < 72
