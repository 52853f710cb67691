"""The captions among which a ranker chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Candidates:
    """N captions for each of B images: what the decoder wrote, and maybe captions of the memory.

    Attributes:
        captions: B lists of N sentences.
        logprobs: ``(B, N)`` log-probability of each under the decoder, summed over its tokens, the end token included.
        image_feats: ``(B, D)`` by the name of the encoder; ``None`` is the captioner's own.
        tags: for each image the names in its prompt.
        encode_text: name of an encoder, sentences → ``(N, D)``.
        tokenize: the tokenizer's, sentences → ids.
        retrieved: for each image the captions of the memory nearest to it, nearest first.
        similarities: ``(B, K)`` cosines of image and retrieved captions.
    """

    captions: Sequence[Sequence[str]]
    logprobs: Tensor
    image_feats: Mapping[str | None, Tensor]
    tags: Sequence[Sequence[str]]
    encode_text: Callable[[str | None, list[str]], Tensor]
    tokenize: Callable[[list[str]], list[list[int]]]
    retrieved: Sequence[Sequence[str]] = ()
    similarities: Tensor | None = None
    _text_feats: dict[str | None, Tensor] = field(default_factory=dict, repr=False)

    def text_feats(self, encoder: str | None = None) -> Tensor:
        """``(B, N, D)`` features of the captions by an encoder, made once."""
        if encoder not in self._text_feats:
            every = [caption for own in self.captions for caption in own]
            different = list(dict.fromkeys(every))
            place = {caption: row for row, caption in enumerate(different)}
            feats = self.encode_text(encoder, different).to(self.logprobs.device)
            rows = torch.tensor([place[caption] for caption in every], device=feats.device)
            self._text_feats[encoder] = feats[rows].view(len(self.captions), -1, feats.shape[1])
        return self._text_feats[encoder]

    @property
    def lengths(self) -> Tensor:
        """``(B, N)`` tokens of each caption, the end token included."""
        counts = [[len(ids) + 1 for ids in self.tokenize(list(own))] for own in self.captions]
        return torch.tensor(counts, device=self.logprobs.device)

    def add(self, captions: Sequence[str], logprobs: Tensor) -> None:
        """One more caption for each image, with its log-probability ``(B,)``."""
        self.captions = [[*own, caption] for own, caption in zip(self.captions, captions)]
        self.logprobs = torch.cat([self.logprobs, logprobs[:, None].to(self.logprobs)], dim=1)
