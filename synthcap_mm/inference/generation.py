"""How captions are generated: the options that users give, as those of the head's ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synthcap_mm.errors import UserError
from synthcap_mm.options import Count, CountOrZero, Positive, Share, check_options
from synthcap_mm.structures import group_id


def generation_options(
    model: Any,
    num_beams: Count | None = None,
    n_best: Count = 1,
    length_penalty: float | None = None,
    max_length: Count | None = None,
    min_length: CountOrZero = 0,
    no_repeat_ngram_size: CountOrZero = 0,
    sample: bool = False,
    top_p: Share = 0.9,
    temperature: Positive = 1.0,
    seed: int = 0,
    rerank: bool | None = None,
    use_cache: bool = True,
    keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Options of the head's ``generate``, checked.

    Args:
        model: the captioner.
        num_beams: 1 is greedy. Default: the config's (1 with ``sample``).
        n_best: captions of each image, at most ``num_beams`` unless sampled. Default 1.
        length_penalty: above 0 favours longer captions among the beams, below 0 shorter ones. Default: the
            config's, or 1.
        max_length: most tokens. Default: the captioner's ``max_length``.
        min_length: least tokens before the end. Default 0.
        no_repeat_ngram_size: no sequence of so many tokens comes twice; 0: anything may. Default 0.
        sample: draw captions (nucleus sampling) instead of searching for the likeliest. Default ``False``.
        top_p: share of the probability to draw from. Default 0.9.
        temperature: divides the logits before drawing. Default 1.
        seed: of the draws; an image's come from it and the image's key, whatever the batch. Default 0.
        rerank: order captions by the config's ranker (:class:`~synthcap_mm.models.ranking.CaptionRanker`), or, if it
            has none, by the encoder's cosine with the image. Default: if the config has a ranker, and nothing is drawn.
        use_cache: keep keys and values of earlier tokens. Default ``True``; without, it is only slower.
        keys: of the images, for ``sample``.

    Raises:
        UserError: naming the option that is out of its range, or does not fit another.
    """
    check_options("generation", generation_options, (), locals())
    config = model.head.generation
    longest = model.data_preprocessor.max_length
    beams = (1 if sample else config.get("num_beams", 5)) if num_beams is None else num_beams
    length = longest if max_length is None else max_length
    if length > longest:
        raise UserError(f"max_length={length}: this captioner learned captions of at most {longest} tokens")
    if min_length > length:
        raise UserError(f"min_length={min_length} is above max_length={length}")
    if sample and beams > 1:
        raise UserError(f"sample=True draws captions one by one; it cannot be used with num_beams={beams}")
    if not sample and n_best > beams:
        raise UserError(f"n_best={n_best} captions need as many beams; num_beams is {beams}")
    options: dict[str, Any] = {
        "num_beams": beams,
        "num_return_sequences": n_best,
        "max_new_tokens": length,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "use_cache": use_cache,
    }
    if min_length:
        options["min_new_tokens"] = min_length
    if length_penalty is not None and beams > 1:
        options["length_penalty"] = float(length_penalty)
    if rerank is not None or sample:  # drawn captions are to differ; a ranker would choose the same one each time
        options["rerank"] = bool(rerank)
    if sample:
        seeds = [group_id(f"{seed}/{key}") for key in keys]
        options |= {"do_sample": True, "top_p": top_p, "temperature": temperature, "seeds": seeds}
    return options
