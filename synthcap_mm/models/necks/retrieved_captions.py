"""Retrieved captions for a decoder to read and to attend to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from synthcap_mm.exportable import data
from synthcap_mm.options import Count, EncoderName, Name, NotNegative, Size, That
from synthcap_mm.registry import MODELS
from synthcap_mm.structures import SOURCES, PrefixBatch

from .base import PHASES
from .retrieval_fusion import RetrievalNeck

_Template = Annotated[
    str,
    That(
        "a text of at most 500 characters with {captions} in it once",
        lambda text: str(text).count("{captions}") == 1 and len(text) <= 500,
    ),
]


@MODELS.register_module()
class RetrievedCaptions(RetrievalNeck):
    """Retrieves captions from the memory as a prompt, and as what the decoder's cross-attention sees.

    After `TOMCap <https://arxiv.org/abs/2512.04309>`_. The context holds the feature itself and those of the retrieved
    captions, multiplied by √D, so that their entries are about 1, as layers are initialised for (assumed). They are the
    memory's, in training and inference alike; TOMCap moves them to where images lie. A training caption never retrieves
    itself, see :class:`RetrievalNeck`.

    Args:
        k (int): captions retrieved. Defaults to 4: TOMCap's.
        prompt (str, optional): text that the decoder reads before the caption, with ``{captions}`` in it once, which
            the captions replace, most similar first, each as a sentence. Defaults to ``None``: no prompt.
        prompt_length (int): most tokens of the prompt; a longer one loses its last. They count among the decoder's
            positions. Defaults to 128: assumed.
        context (bool): fill the batch's ``context``, which needs a head with ``cross_attention``. Defaults to ``True``.
        noise_variance (float): see :class:`RetrievalNeck`, as the other options. Defaults to 0.016: CapDec's, assumed.
        query (str): Defaults to ``'feats'``, as TOMCap has it.
        encoder (str, optional): Defaults to ``None``; the context has the captioner's own features in any case.
        memory (str, optional): Defaults to ``None``.
        split (str, optional): Defaults to ``'train'``.
        phases (Sequence[str]): Defaults to both.
        sources (Sequence[str]): Defaults to all.
        block_size (int): Defaults to 8192.

    Shape:
        ``feats`` (B, D) stays; ``context`` (B, 1 + k, D), ``prompts`` B texts.

    Raises:
        ValueError, UserError: as :class:`RetrievalNeck`.
    """

    exportable = data(
        "k", "prompt", "prompt_length", "context", "noise_variance", "query", "encoder", "split", "phases", "sources"
    )

    def __init__(
        self,
        k: Count = 4,
        prompt: _Template | None = None,
        prompt_length: Size = 128,
        context: bool = True,
        noise_variance: NotNegative = 0.016,
        query: Literal["text", "feats"] = "feats",
        memory: Name | None = None,
        split: Literal["train", "heldout"] | None = "train",
        phases: Sequence[str] = PHASES,
        sources: Sequence[str] = SOURCES,
        block_size: Count = 8192,
        encoder: EncoderName | None = None,
    ) -> None:
        super().__init__(k, noise_variance, query, memory, split, phases, sources, block_size, encoder)
        self.prompt, self.context = prompt, context
        self.prompt_length = 0 if prompt is None else prompt_length

    def word(self, captions: Sequence[str]) -> str:
        """The prompt of some captions."""
        return self.prompt.replace("{captions}", " ".join(f"{text.rstrip(' .')}." for text in captions))

    def transform(self, batch: PrefixBatch, phase: str) -> tuple[PrefixBatch, dict[str, Tensor]]:
        """Retrieve; give texts and features on."""
        rows = self.retrieved_rows(batch, phase)
        memory = self.bound(rows.device)
        if self.prompt is not None:
            texts = [[memory.text(row) for row in found] for found in rows.tolist()]
            batch = batch.replace(prompts=[self.word(found) for found in texts])
        if self.context:
            seen = torch.cat([batch.feats[:, None].float(), memory.features[rows]], dim=1)
            batch = batch.replace(context=seen * math.sqrt(seen.shape[2]))
        return batch, {}
