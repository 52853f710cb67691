"""Captions drawn at random, each image by its own numbers."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from synthcap_mm.errors import UserError
from synthcap_mm.options import Positive, Range, check_when_built


@check_when_built
class NucleusSampling:
    """Chooses each next token from the smallest set that holds ``top_p`` of the probability.

    Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020. A
    logits processor of transformers: it leaves one token of each row, so that a greedy
    choice takes it. Transformers' own sampling draws for the whole batch from one
    stream of random numbers, so that a caption would depend on which images are beside
    it; here each row has its numbers beforehand, by its image's seed. What remains is
    rounding: a batched product differs from a single one by about 1e-6, and so a draw
    may fall on the other side of a border once in some 100,000 tokens (estimated).

    Args:
        seeds: one of each row.
        steps: most tokens of a caption.
        top_p: in (0, 1]. Default 0.9 (the paper's range is 0.9 to 1).
        temperature: divides the logits. Default 1.
        device: of the logits.

    Raises:
        UserError: if ``top_p`` or ``temperature`` is out of its range.
    """

    def __init__(
        self,
        seeds: list[int],
        steps: int,
        top_p: Annotated[float, Range("(0, 1]")],
        temperature: Positive,
        device: torch.device | str = "cpu",
    ) -> None:
        self.top_p, self.temperature = top_p, temperature
        # On the CPU, so that a GPU draws the same.
        draws = [
            torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds
        ]
        self._draws = torch.stack(draws).to(device)
        self._step = 0

    @classmethod
    def of(cls, options: dict[str, Any], copies: int, steps: int, device: torch.device) -> NucleusSampling:
        """From options of ``generate``; its own are taken out of them.

        Args:
            options: with ``seeds``, and possibly ``top_p`` and ``temperature``.
            copies: captions of each image.
            steps: most tokens of a caption.
            device: of the logits.

        Raises:
            UserError: without ``seeds``, or with more than one beam.
        """
        if options.get("num_beams", 1) != 1:
            raise UserError(f"do_sample draws captions one by one: num_beams must be 1, got {options['num_beams']}")
        if (seeds := options.pop("seeds", None)) is None:
            raise UserError("do_sample needs seeds, one integer an image, so that a caption can be drawn again")
        rows = [(seed * 1_000_003 + copy) % 2**63 for seed in seeds for copy in range(copies)]
        return cls(rows, steps, options.pop("top_p", 0.9), options.pop("temperature", 1.0), device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``(R, V)`` of which one in each row is 0 and the others are minus infinity."""
        likely, tokens = (scores.double() / self.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        upto = likely.cumsum(-1)
        # The token whose probability makes the sum reach top_p is kept.
        likely = likely.masked_fill(upto - likely >= self.top_p, 0.0)
        upto = likely.cumsum(-1)
        place = torch.searchsorted(upto, self._draws[:, self._step, None] * upto[:, -1:], right=True)
        # A draw close to 1 may round up to the whole sum, behind which there is no token.
        place = torch.minimum(place, (likely > 0).sum(-1, keepdim=True) - 1)
        self._step += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens.gather(1, place), 0.0)
