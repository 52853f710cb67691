"""Beam search that lets go of each image once its captions are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from synthcap_mm.requirements import require

#: Options of ``generate`` that :func:`beam_search` knows; with others transformers' own search is used.
OPTIONS = frozenset(
    {
        "num_beams", "num_return_sequences", "length_penalty", "early_stopping", "min_new_tokens",
        "no_repeat_ngram_size", "use_cache",
    }
)  # fmt: skip
_NEVER = -1.0e9


@torch.no_grad()
def beam_search(
    decoder: Any,
    embeds: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    num_beams: int,
    num_return_sequences: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    min_new_tokens: int = 0,
    no_repeat_ngram_size: int = 0,
    use_cache: bool = True,
    attended: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The captions that transformers' beam search finds, with less work.

    Transformers carries all images along until the last one is done, and runs the prompt and
    the first token once a beam. Here an image leaves the batch when nothing better can
    be found for it, its prompt runs once, and only the best tokens of each beam are
    normalised. The rules are the same (its tests compare the two).

    Args:
        decoder: a ``GPT2LMHeadModel``.
        embeds: ``(B, L, W)`` prefix and prompt, padded on the left.
        mask: ``(B, L)``, 0 where there is padding.
        max_new_tokens: most tokens of a caption.
        eos_id: end token.
        pad_id: fills what is behind it.
        num_beams: at least 2; the vocabulary has twice as many tokens or more.
        num_return_sequences: captions of each image. Default 1.
        length_penalty: a caption's score is its log-probability / length ** this. Default 1.
        early_stopping: ``False``: an image is done when its best open beam, as it is now, is worse than its worst
            finished one; ``True``: when it has ``num_beams`` finished ones; ``'never'``: when no open beam
            can become better. Default ``False``.
        min_new_tokens: no end token before. Default 0.
        no_repeat_ngram_size: no sequence of so many new tokens comes twice; 0: it may. Default 0.
        use_cache: keep keys and values of what is done. Default ``True``.
        attended: further arguments of the decoder with a row an image, what it attends to by cross-attention.
            Default ``None``.

    Returns:
        ``ids`` ``(B, N, T)``, ``logprobs`` ``(B, N)``, ``scores`` ``(B, N)``, best first.
    """
    rules = []
    if no_repeat_ngram_size:
        rules.append(require("transformers").NoRepeatNGramLogitsProcessor(no_repeat_ngram_size))
    images, beams, device = len(embeds), num_beams, embeds.device
    kept = 2 * beams  # at most `beams` of these can be ends, so enough remain to go on with
    found = torch.full((images, beams, max_new_tokens), pad_id, device=device)
    found_scores = torch.full((images, beams), _NEVER, device=device)
    found_logprobs = torch.zeros((images, beams), device=device)
    is_found = torch.zeros((images, beams), dtype=torch.bool, device=device)

    alive = torch.arange(images, device=device)  # images that are still searched
    running = torch.empty((images, 1, 0), dtype=torch.long, device=device)
    running_logprobs = torch.zeros((images, 1), device=device)
    cache, attended = None, dict(attended or {})
    for step in range(max_new_tokens):
        logits, cache = _next_logits(decoder, embeds, mask, running, cache, use_cache, attended)
        width = running.shape[1]
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        if step < min_new_tokens:
            logits[:, eos_id] = float("-inf")
        for rule in rules:
            logits = rule(running.flatten(0, 1), logits)
        values, tokens = logits.topk(kept, dim=-1)
        logprobs = values - normaliser + running_logprobs.flatten()[:, None]
        logprobs, place = logprobs.view(len(alive), -1).topk(kept, dim=1)
        parents = place // kept
        token = tokens.view(len(alive), -1).gather(1, place)
        sequences = torch.cat([_of(running, parents), token[..., None]], dim=2)
        last = step + 1 == max_new_tokens
        ends = (token == eos_id) | last

        # The captions that ended, among those found before; an end behind the best `beams` does not count.
        scores = (logprobs / (step + 1) ** length_penalty).masked_fill(~ends, _NEVER)[:, :beams]
        padded = torch.nn.functional.pad(sequences[:, :beams], (0, max_new_tokens - step - 1), value=pad_id)
        merged, order = torch.cat([found_scores[alive], scores], dim=1).topk(beams, dim=1)
        found_scores[alive] = merged
        found[alive] = _of(torch.cat([found[alive], padded], dim=1), order)
        found_logprobs[alive] = torch.cat([found_logprobs[alive], logprobs[:, :beams]], dim=1).gather(1, order)
        is_found[alive] = torch.cat([is_found[alive], ends[:, :beams]], dim=1).gather(1, order)
        if last:
            break

        running_logprobs, order = (logprobs + ends * _NEVER).topk(beams, dim=1)
        running, parents = _of(sequences, order), parents.gather(1, order)
        length = max_new_tokens if early_stopping == "never" and length_penalty > 0 else step + 1
        best = running_logprobs[:, :1] / length**length_penalty
        worst = found_scores[alive].amin(dim=1, keepdim=True).masked_fill(~is_found[alive], _NEVER)
        goes_on = (best > worst).any(dim=1)
        if early_stopping is True:
            goes_on &= ~is_found[alive].all(dim=1)
        stay = goes_on.nonzero().flatten()
        if len(stay) == 0:
            break
        if cache is not None:
            cache.reorder_cache((stay[:, None] * width + parents[stay]).flatten())
        alive, running, running_logprobs = alive[stay], running[stay], running_logprobs[stay]
        embeds, mask = embeds[stay], mask[stay]
        attended = {name: rows[stay] for name, rows in attended.items()}
    best = slice(0, num_return_sequences)
    ids = found[:, best]
    used = (ids != pad_id).flatten(0, 1).any(0).nonzero()
    # Where padding and end are one token, the end is kept: it counts among the tokens.
    longest = min(max_new_tokens, (int(used[-1]) + 1 if len(used) else 0) + (pad_id == eos_id))
    return {"ids": ids[..., : max(1, longest)], "logprobs": found_logprobs[:, best], "scores": found_scores[:, best]}


def _of(sequences: Tensor, rows: Tensor) -> Tensor:
    """Of each image the sequences ``(A, N, T)`` at ``rows`` ``(A, K)``."""
    return sequences.gather(1, rows[..., None].expand(-1, -1, sequences.shape[2]))


def _next_logits(
    decoder: Any,
    embeds: Tensor,
    mask: Tensor,
    running: Tensor,
    cache: Any,
    use_cache: bool,
    attended: Mapping[str, Tensor],
) -> tuple[Tensor, Any]:
    """Logits ``(A * K, V)`` of the token after each running sequence, and the cache."""
    _, width, length = running.shape
    tokens = running.flatten(0, 1)
    # All beams of an image attend to its one prefix and prompt.
    mask = mask.repeat_interleave(width, 0)
    mask = torch.cat([mask, mask.new_ones(len(mask), length)], dim=1)
    if length and cache is not None:
        inputs = decoder.transformer.wte(tokens[:, -1:])
    else:
        inputs = embeds.repeat_interleave(width, 0)
        inputs = torch.cat([inputs, decoder.transformer.wte(tokens).to(inputs.dtype)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -inputs.shape[1] :]
    result = decoder.transformer(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=use_cache,
        **{name: rows.repeat_interleave(width, 0) for name, rows in attended.items()},
    )
    return decoder.lm_head(result.last_hidden_state[:, -1]).float(), result.past_key_values if use_cache else None
